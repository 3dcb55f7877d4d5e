"""The rows of a table of any size, from any place in it: JSON lines, CSV, values parted by tabs, or Parquet."""

import csv
import importlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from imagen_jax.data.record_fields import parse_json_object
from imagen_jax.errors import UserError, nearest_name
from imagen_jax.storage.buckets import is_refusal
from imagen_jax.storage.paths import Path

INSTALL = 'pip install "pyarrow>=26.0.1,<27"'

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ROWS_AT_A_TIME = 1000
LONGEST_LINE = 2**24
"""Bytes."""


class Place(NamedTuple):
    """Where a row begins.

    Attributes:
        offset: in bytes; of Parquet, in rows.
        line: its number, from 1 on; of Parquet, of its row.
    """

    offset: int
    line: int


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        place: where it begins.
        name: such as ``"line 17"``.
        values: by the names of the columns. Text that is not UTF-8 has lone surrogates.
        problem: why it has no values, or nothing.
        detail: of the problem.
    """

    place: Place
    name: str
    values: dict[str, Any]
    problem: str = ""
    detail: str = ""


RowReader = Callable[[Path, Place | None, Sequence[str]], Iterator[Row]]
"""``read(table, start, needed)`` gives the rows from a place on, or from the first one. It raises ``UserError`` where
the table can't be read, or where it is known from its beginning that one of the columns ``needed`` is not there."""


def read_json_lines(table: Path, start: Place | None, needed: Sequence[str]) -> Iterator[Row]:
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


def read_separated_values(delimiter: str, table: Path, start: Place | None, needed: Sequence[str]) -> Iterator[Row]:
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
        check_columns(table, columns, needed)
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


def read_parquet(table: Path, start: Place | None, needed: Sequence[str]) -> Iterator[Row]:
    """Gives the rows of a Parquet table: the columns that are needed, and those of text, numbers and truth values.

    Raises:
        UserError: pyarrow is not installed, the table can't be read, or a column that is needed is not in it.
    """
    arrow = import_arrow(table)
    number = 0 if start is None else start.offset
    try:
        with table.open("rb") as stream:
            file = importlib.import_module("pyarrow.parquet").ParquetFile(stream)
            check_columns(table, file.schema_arrow.names, needed)
            columns = [
                field.name for field in file.schema_arrow if field.name in needed or is_scalar(arrow, field.type)
            ]
            group, skipped = find_row_group(file, number)
            groups = range(group, file.num_row_groups)
            for batch in file.iter_batches(ROWS_AT_A_TIME, row_groups=groups, columns=columns) if groups else ():
                for values in rows_of_batch(batch.slice(min(skipped, len(batch)))):
                    yield Row(Place(number, number + 1), f"row {number + 1}", values)
                    number += 1
                skipped = max(skipped - len(batch), 0)
    # pyarrow has OSError too for what it can't make out.
    except (arrow.ArrowException, OSError) as error:
        if is_refusal(error):
            raise
        raise UserError(f"{table} can't be read as Parquet ({error}): write it anew") from error


ROW_READERS: dict[str, RowReader] = {
    ".jsonl": read_json_lines,
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

    def __init__(self, stream: Any, start: Place | None):
        # Files in buckets have no readline of a limited length.
        self.stream = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)
        self.place = Place(0, 1)
        if start is None and self.stream.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
            start = Place(len(BYTE_ORDER_MARK), 1)
        self.go_to(start or self.place)

    def go_to(self, place: Place) -> None:
        """Continues at a place where a line begins."""
        self.stream.seek(place.offset)
        self.place = place

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self.stream.readline(LONGEST_LINE + 1)
        if not line:
            raise StopIteration
        size, end = len(line), line
        while size > LONGEST_LINE and end and not end.endswith(b"\n"):
            end = self.stream.readline(LONGEST_LINE)
            size += len(end)
        self.place = Place(self.place.offset + size, self.place.line + 1)
        if size > LONGEST_LINE:
            raise LongLineError(f"it has {size} bytes")
        return line.decode("utf-8", "surrogateescape")


def check_columns(table: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    """Checks that a table has the columns that are needed.

    Raises:
        UserError: one is not there.
    """
    for column in needed:
        if column not in columns:
            raise UserError(f"{table} has no column {column!r}{nearest_name(column, columns)}")


def import_arrow(table: Path) -> ModuleType:
    """Imports pyarrow.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(f"{table} is a Parquet table, and pyarrow is not installed: {INSTALL}") from error


def is_scalar(arrow: ModuleType, kind: Any) -> bool:
    """Whether a column's type is text, a number, a truth value or nothing."""
    types = arrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    checks = (
        types.is_string,
        types.is_large_string,
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_null,
    )
    return any(check(kind) for check in checks)


def find_row_group(file: Any, row: int) -> tuple[int, int]:
    """The row group of a Parquet file that holds a row, and how many rows of that group stand before it."""
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return group, row
        row -= rows
    return file.num_row_groups, 0


def rows_of_batch(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch of pyarrow, by the names of the columns."""
    columns = [values_of_column(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def values_of_column(column: Any) -> list[Any]:
    """The values of a column; of text that is not UTF-8 the rest is kept, as ``Row`` says."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [value_of_scalar(scalar) for scalar in column]


def value_of_scalar(scalar: Any) -> Any:
    """The value of a scalar of pyarrow, or of a list of them."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if hasattr(scalar, "as_buffer"):
            return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
        return [value_of_scalar(value) for value in scalar.values]
