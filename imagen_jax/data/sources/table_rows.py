"""The rows of a table of any size, from any place in it: JSON lines, CSV, values parted by tabs, or Parquet."""

import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from imagen_jax.data.sources.parquet_rows import read_parquet
from imagen_jax.data.sources.record_fields import parse_json_object
from imagen_jax.data.sources.rows import Row, RowPosition, RowReader, check_columns
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path

BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
"""How a table may begin, and how its text is then encoded; Excel writes the second."""

MAX_LINE_LENGTH = 2**24
"""Bytes."""


def read_json_lines(table: Path, start: RowPosition | None, needed: Sequence[str]) -> Iterator[Row]:
    """Gives the rows of a file with a JSON object in each line; which columns there are shows only at its end."""
    with table.open("rb") as stream:
        lines = Lines(stream, start)
        while True:
            place = lines.place
            try:
                line = next(lines, None)
                if line is None:
                    return
                if not line.strip():
                    continue
                yield Row(place, f"line {place.line}", parse_json_object(line))
            except LongLineError as error:
                yield Row(place, f"line {place.line}", {}, "row is too long", str(error))
            except ValueError as error:
                yield Row(place, f"line {place.line}", {}, "row is no JSON", str(error))


def read_separated_values(
    delimiter: str, table: Path, start: RowPosition | None, needed: Sequence[str]
) -> Iterator[Row]:
    """Gives the rows of a table as text, below a line with the columns' names; a quoted value may go over lines.

    Raises:
        UserError: the table has no such line, or a column that is needed is not in it.
    """
    with table.open("rb") as stream:
        lines = Lines(stream, None)
        # Strict, since else a quotation mark that is never closed would swallow all that follows.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            columns = next((fields for fields in reader if fields), [])
        except (csv.Error, LongLineError) as error:
            raise UserError(
                f"the first line of {table} can't be read ({error}): write the columns' names there"
            ) from error
        check_separated_columns(table, columns, needed, delimiter)
        if start is not None:
            lines.go_to(start)
        while True:
            place = lines.place
            name = f"line {place.line}"
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield Row(place, name, {}, "row is no CSV", f"up to line {lines.place.line - 1}: {error}")
                continue
            except LongLineError as error:
                yield Row(place, name, {}, "row is too long", str(error))
                continue
            if fields is None:
                return
            if len(fields) == len(columns):
                yield Row(place, name, dict(zip(columns, fields, strict=True)))
            elif fields:
                detail = f"{len(fields)} values for {len(columns)} columns"
                yield Row(place, name, {}, "row does not fit the columns", detail)


ROW_READERS: dict[str, RowReader] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".csv": partial(read_separated_values, ","),
    ".tsv": partial(read_separated_values, "\t"),
    ".parquet": read_parquet,
}


class LongLineError(ValueError):
    """A line that would fill the memory; the next one can be read."""


class Lines:
    """The lines of a file as text, one after another, and where the next one begins.

    Attributes:
        place: where the next line begins.
    """

    def __init__(self, stream: Any, start: RowPosition | None):
        # Files in buckets have no readline of a limited length.
        self.stream = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)
        self.place = RowPosition(0, 1)
        self.stream.seek(0)
        beginning = self.stream.read(3)
        mark = next((mark for mark in BYTE_ORDER_MARKS if beginning.startswith(mark)), b"")
        self.encoding = BYTE_ORDER_MARKS.get(mark, "utf-8")
        self.go_to(start or RowPosition(len(mark), 1))

    def go_to(self, place: RowPosition) -> None:
        """Continues at a place where a line begins."""
        self.stream.seek(place.offset)
        self.place = place

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self._read_line()
        if not line:
            raise StopIteration
        size, end = len(line), line
        while size > MAX_LINE_LENGTH and end and not self._ends(end):
            end = self._read_line()
            size += len(end)
        self.place = RowPosition(self.place.offset + size, self.place.line + 1)
        if size > MAX_LINE_LENGTH:
            raise LongLineError(f"it has {size} bytes")
        if self.encoding == "utf-8":
            return line.decode("utf-8", "surrogateescape")
        # Half a unit at the file's end is no text, and said so by a lone surrogate, as in UTF-8.
        return line[: size - size % 2].decode(self.encoding, "surrogatepass") + "\udcff" * (size % 2)

    def _read_line(self) -> bytes:
        """The bytes up to the next line feed and with it, or to the end; only the beginning of what is too long."""
        line = self.stream.readline(MAX_LINE_LENGTH + 1)
        if self.encoding == "utf-8":
            return line
        while line:
            # In the little end the line feed's byte comes first; and it may be half of another character.
            more = self.stream.read(1) if len(line) % 2 else b""
            line += more
            if self._ends(line) or len(line) > MAX_LINE_LENGTH:
                return line
            rest = self.stream.readline(MAX_LINE_LENGTH + 1)
            if not rest:
                return line
            line += rest
        return line

    def _ends(self, line: bytes) -> bool:
        end = "\n".encode(self.encoding)
        return line.endswith(end) and not len(line) % len(end)


def check_separated_columns(table: Path, columns: Sequence[str], needed: Sequence[str], delimiter: str) -> None:
    """Checks that a table of separated values has the columns that are needed.

    Raises:
        UserError: one is not there; the message says so where the text is of another encoding or separated otherwise.
    """
    if any("\0" in column for column in columns):
        raise UserError(f"{table} is no UTF-8 text, for its first line has zero bytes: save it as UTF-8")
    others = [other for other in ",;\t|" if other != delimiter and len(columns) == 1 and other in columns[0]]
    if others and columns[0] not in needed:
        called = {"\t": "tabs", ",": "commas"}
        raise UserError(
            f"the columns of {table} are separated by {called.get(others[0], repr(others[0]))}, not by "
            f"{called[delimiter]}: save it with {called[delimiter]}"
            + (", or call it .tsv" if others[0] == "\t" else ", or call it .csv" if others[0] == "," else "")
        )
    check_columns(table, columns, needed)
