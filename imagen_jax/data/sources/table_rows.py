"""Reads the rows of a table of any size, from any position: JSON lines, CSV, tab-separated values, or Parquet."""

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
"""Encodings by byte order mark; Excel writes UTF-16-LE."""

MAX_LINE_LENGTH = 2**24
"""Max bytes of a line."""


def read_json_lines(table: Path, start: RowPosition | None, needed: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a file with one JSON object per line; missing columns can't be detected before its end."""
    with table.open("rb") as stream:
        lines = Lines(stream, start)
        while True:
            position = lines.position
            try:
                line = next(lines, None)
                if line is None:
                    return
                if not line.strip():
                    continue
                yield Row(position, f"line {position.line}", parse_json_object(line))
            except LongLineError as error:
                yield Row(position, f"line {position.line}", {}, "row is too long", str(error))
            except ValueError as error:
                yield Row(position, f"line {position.line}", {}, "row is not JSON", str(error))


def read_separated_values(
    delimiter: str, table: Path, start: RowPosition | None, needed: Sequence[str]
) -> Iterator[Row]:
    """Yields the rows of a table as text, below a line of column names; a quoted value may span several lines.

    Raises:
        UserError: the table has no such line, or lacks a needed column.
    """
    with table.open("rb") as stream:
        lines = Lines(stream, None)
        # Strict, because otherwise an unclosed quotation mark would consume the rest of the file.
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
            position = lines.position
            name = f"line {position.line}"
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield Row(position, name, {}, "row is not CSV", f"up to line {lines.position.line - 1}: {error}")
                continue
            except LongLineError as error:
                yield Row(position, name, {}, "row is too long", str(error))
                continue
            if fields is None:
                return
            if len(fields) == len(columns):
                yield Row(position, name, dict(zip(columns, fields, strict=True)))
            elif fields:
                detail = f"{len(fields)} values for {len(columns)} columns"
                yield Row(position, name, {}, "row does not fit the columns", detail)


ROW_READERS: dict[str, RowReader] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".csv": partial(read_separated_values, ","),
    ".tsv": partial(read_separated_values, "\t"),
    ".parquet": read_parquet,
}


class LongLineError(ValueError):
    """Raised for a line that would fill the memory; the next line can still be read."""


class Lines:
    """Iterates over the lines of a file as text, and tracks the position of the next one.

    Attributes:
        position: where the next line begins.
    """

    def __init__(self, stream: Any, start: RowPosition | None):
        # Files in buckets have no readline of a limited length.
        self.stream = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)
        self.position = RowPosition(0, 1)
        self.stream.seek(0)
        beginning = self.stream.read(3)
        mark = next((mark for mark in BYTE_ORDER_MARKS if beginning.startswith(mark)), b"")
        self.encoding = BYTE_ORDER_MARKS.get(mark, "utf-8")
        self.go_to(start or RowPosition(len(mark), 1))

    def go_to(self, position: RowPosition) -> None:
        """Continues at a position where a line begins."""
        self.stream.seek(position.offset)
        self.position = position

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
        self.position = RowPosition(self.position.offset + size, self.position.line + 1)
        if size > MAX_LINE_LENGTH:
            raise LongLineError(f"it has {size} bytes")
        if self.encoding == "utf-8":
            return line.decode("utf-8", "surrogateescape")
        # Half a UTF-16 unit at the end of the file becomes a lone surrogate, as invalid bytes do in UTF-8.
        return line[: size - size % 2].decode(self.encoding, "surrogatepass") + "\udcff" * (size % 2)

    def _read_line(self) -> bytes:
        """Returns the bytes up to and including the next line feed, or to the end of the file.

        Of a line that is too long it returns only the beginning.
        """
        line = self.stream.readline(MAX_LINE_LENGTH + 1)
        if self.encoding == "utf-8":
            return line
        while line:
            # In UTF-16-LE the line feed's byte comes first, so the second byte is read too. The byte may also be half
            # of another character.
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
    """Checks that a table of separated values has the needed columns.

    Raises:
        UserError: a column is missing, or the text has another encoding or another separator, which the message names.
    """
    if any("\0" in column for column in columns):
        raise UserError(f"{table} is not UTF-8 text (its first line has zero bytes): save it as UTF-8")
    others = [other for other in ",;\t|" if other != delimiter and len(columns) == 1 and other in columns[0]]
    if others and columns[0] not in needed:
        called = {"\t": "tabs", ",": "commas"}
        raise UserError(
            f"the columns of {table} are separated by {called.get(others[0], repr(others[0]))}, not by "
            f"{called[delimiter]}: save it with {called[delimiter]}"
            + (", or call it .tsv" if others[0] == "\t" else ", or call it .csv" if others[0] == "," else "")
        )
    check_columns(table, columns, needed)
