"""The rows of a table of any size, from any place in it: JSON lines, CSV, values parted by tabs, or Parquet."""

import csv
import importlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple

from imagen_jax.data.record_fields import parse_json_object
from imagen_jax.errors import UserError, nearest_name
from imagen_jax.storage.buckets import is_refusal
from imagen_jax.storage.paths import Path
from imagen_jax.storage.refusals import raise_if_denied

INSTALL = 'pip install "pyarrow>=26.0.1,<27"'

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ROWS_AT_A_TIME = 1000
LONGEST_LINE = 2**24
"""Bytes."""

LARGEST_GROUP = 2**31
"""Bytes of a row group of Parquet, unpacked, in the columns that are read; one row or page may be nearly all of it."""

BYTES_AT_A_TIME = 2**27
"""Of rows of Parquet, at most, but for what a single row has, and lists whose lengths differ much."""

SMALL_GROUP = 2**23
"""Bytes of a row group whose texts are kept in memory once, however many rows have each. A larger one would have to be
kept as a whole, and its rows are read fewer at a time."""

PAGES_AT_A_TIME = 2**20
"""Bytes of a column that are read at a time, as they are packed."""

LISTED_VALUE = 64
"""Bytes that a value in a list takes at least; a file may hold no more than how often it comes."""

DICTIONARY_PAGE = b"\x15\x04\x15"
"""How the header of one begins in Thrift's compact protocol, up to the number of its bytes, unpacked."""


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
        UserError: pyarrow is not installed, the table can't be read, has too large a row group, or lacks a column that
            is needed.
    """
    arrow = import_arrow(table)
    number = 0 if start is None else start.offset
    try:
        with table.open("rb") as stream:
            parquet = importlib.import_module("pyarrow.parquet")
            file = parquet.ParquetFile(stream, buffer_size=PAGES_AT_A_TIME)
            check_columns(table, file.schema_arrow.names, needed)
            columns = [
                field.name for field in file.schema_arrow if field.name in needed or is_scalar(arrow, field.type)
            ]
            texts = text_columns(file.metadata)
            keeping = parquet.ParquetFile(
                stream, metadata=file.metadata, read_dictionary=texts, buffer_size=PAGES_AT_A_TIME
            )
            first, skipped = find_row_group(file, number)
            for group in range(first, file.num_row_groups):
                chunks = chunks_read(table, file, group, columns)
                reader, rows = keeping, ROWS_AT_A_TIME
                if sum(map(unpacked_size, chunks)) > SMALL_GROUP or any(map(shares_beginnings, chunks)):
                    reader, rows = file, rows_at_a_time(stream, chunks, file.metadata.row_group(group).num_rows)
                for batch in reader.iter_batches(rows, row_groups=[group], columns=columns):
                    for values in rows_of_batch(arrow, batch.slice(min(skipped, len(batch)))):
                        yield Row(Place(number, number + 1), f"row {number + 1}", values)
                        number += 1
                    skipped = max(skipped - len(batch), 0)
    # pyarrow has OSError too for what it can't make out, and takes the names of columns for UTF-8.
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise_if_denied(error, table)
        if is_refusal(error):
            raise
        raise UserError(f"{table} can't be read as Parquet ({error}): write it anew") from error


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


def text_columns(metadata: Any) -> list[str]:
    """The paths of a Parquet file's columns of text or bytes, those in lists too."""
    leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def chunks_read(table: Path, file: Any, number: int, columns: Sequence[str]) -> list[Any]:
    """What a row group of a Parquet file has of some columns, those in lists too.

    Raises:
        UserError: it is too large.
    """
    # Of what makes no sense pyarrow's reader raises an error here; ``column`` below would end the process.
    next(file.iter_batches(1, row_groups=[number], columns=columns), None)
    group, schema = file.metadata.row_group(number), file.metadata.schema
    paths = [f"{schema.column(place).path}." for place in range(group.num_columns)]
    places = [place for place, path in enumerate(paths) if any(path.startswith(f"{name}.") for name in columns)]
    read = [group.column(place) for place in places]
    size = sum(map(unpacked_size, read)) + LISTED_VALUE * sum(max(each.num_values - group.num_rows, 0) for each in read)
    if size > LARGEST_GROUP:
        raise UserError(
            f"{table} has a row group of {group.num_rows} rows that takes {size} bytes unpacked, and {LARGEST_GROUP} "
            "are read at most: write smaller row groups, such as with row_group_size=10000 of pyarrow's write_table"
        )
    return read


def unpacked_size(chunk: Any) -> int:
    """Bytes of a column in a row group, as the file says, before texts that come several times are repeated."""
    return int(chunk.total_uncompressed_size)


def shares_beginnings(chunk: Any) -> bool:
    """Whether texts of a column are stored as what differs from the text before."""
    return "DELTA_BYTE_ARRAY" in chunk.encodings


def rows_at_a_time(stream: Any, chunks: Sequence[Any], rows: int) -> int:
    """How many rows are read at a time of a row group of ``rows`` rows."""
    size = sum(map(unpacked_size, chunks))
    longest = 0
    for chunk in chunks:
        if chunk.physical_type == "BYTE_ARRAY":
            repeated = unpacked_size(chunk) if shares_beginnings(chunk) else dictionary_size(stream, chunk)
            longest += repeated * -(-chunk.num_values // max(rows, 1))
    return max(1, min(ROWS_AT_A_TIME, rows * BYTES_AT_A_TIME // max(size, 1), BYTES_AT_A_TIME // max(longest, 1)))


def dictionary_size(stream: Any, chunk: Any) -> int:
    """Bytes of the texts of a column that come several times, and so the most that one of them can have."""
    stream.seek(chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset)
    header = stream.read(len(DICTIONARY_PAGE) + 5)
    if not header.startswith(DICTIONARY_PAGE):
        return unpacked_size(chunk) if chunk.has_dictionary_page else 0
    # A number in sevens of bits, the lowest first; its own lowest is the sign.
    size = 0
    for place, byte in enumerate(header[len(DICTIONARY_PAGE) :]):
        size |= (byte & 127) << 7 * place
        if byte < 128:
            break
    return size >> 1


def rows_of_batch(arrow: ModuleType, batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch of pyarrow, by the names of the columns."""
    columns = [values_of_column(arrow, column) for column in batch.columns]
    for row in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


def values_of_column(arrow: ModuleType, column: Any) -> list[Any]:
    """The values of a column; of text that is not UTF-8 the rest is kept, as ``Row`` says.

    A text that several rows have is in memory once.
    """
    if arrow.types.is_dictionary(column.type):
        places, texts = column.indices.to_pylist(), column.dictionary
        known = sorted({*places} - {None})
        values = dict(zip(known, values_of_column(arrow, texts.take(arrow.array(known, "int32"))), strict=True))
        return [values.get(place) for place in places]
    if arrow.types.is_list(column.type) or arrow.types.is_large_list(column.type):
        listed = iter(values_of_column(arrow, column.flatten()))
        sizes = column.value_lengths().to_pylist()
        return [None if size is None else list(islice(listed, size)) for size in sizes]
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
