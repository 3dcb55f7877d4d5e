"""The rows of a Parquet table of any size, from any row on, within limits of memory."""

import importlib
from collections.abc import Iterator, Sequence
from itertools import islice
from types import ModuleType
from typing import Any

from imagen_jax.data.sources.rows import EmbeddedImage, Row, RowPosition, check_columns
from imagen_jax.errors import UserError
from imagen_jax.storage.buckets import is_refusal
from imagen_jax.storage.paths import Path
from imagen_jax.storage.refusals import raise_if_denied

ROWS_AT_A_TIME = 1000

INSTALL = 'pip install "pyarrow>=26.0.1,<27"'

MAX_GROUP_BYTES = 2**31
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


def read_parquet(
    table: Path, start: RowPosition | None, needed: Sequence[str], with_bytes: bool = True
) -> Iterator[Row]:
    """Gives the rows of a Parquet table: the columns that are needed, and those of text, numbers and truth values.

    Where a column that is needed holds images themselves, as bytes or as Hugging Face's struct of bytes and path, its
    values are ``EmbeddedImage``s; ``with_bytes=False`` leaves their content unread. Of a struct without bytes the
    values are the paths.

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
                column
                for field in file.schema_arrow
                for column in columns_of(arrow, field, field.name in needed, with_bytes)
            ]
            embedded = [field.name for field in file.schema_arrow if field.name in needed and holds_bytes(arrow, field)]
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
                        values = values | {name: embedded_image(values.get(name)) for name in embedded}
                        yield Row(RowPosition(number, number + 1), f"row {number + 1}", values)
                        number += 1
                    skipped = max(skipped - len(batch), 0)
    # pyarrow has OSError too for what it can't make out, and takes the names of columns for UTF-8.
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise_if_denied(error, table)
        if is_refusal(error):
            raise
        raise UserError(f"{table} can't be read as Parquet ({error}): write it anew") from error


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


def is_bytes(arrow: ModuleType, kind: Any) -> bool:
    """Whether a column's type is bytes."""
    types = arrow.types
    return any(check(kind) for check in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary))


def holds_bytes(arrow: ModuleType, field: Any) -> bool:
    """Whether a column holds images themselves: bytes, or a struct that has some under ``bytes``."""
    inner = {one.name: one.type for one in field.type} if arrow.types.is_struct(field.type) else {}
    return is_bytes(arrow, field.type) or ("bytes" in inner and is_bytes(arrow, inner["bytes"]))


def columns_of(arrow: ModuleType, field: Any, is_needed: bool, with_bytes: bool) -> list[str]:
    """The paths of what is read of a column, none where it is neither needed nor a scalar."""
    if not is_needed:
        return [field.name] if is_scalar(arrow, field.type) else []
    if is_bytes(arrow, field.type):
        return [field.name] if with_bytes else []
    if not arrow.types.is_struct(field.type):
        return [field.name]
    names = {one.name for one in field.type}
    inner = {"path"} | ({"bytes"} if with_bytes and holds_bytes(arrow, field) else set())
    return [f"{field.name}.{name}" for name in sorted(names & inner)]


def embedded_image(value: Any) -> EmbeddedImage:
    """An image that a table holds, of the value of its column."""
    values = value if isinstance(value, dict) else {"bytes": value}
    content, path = values.get("bytes"), values.get("path")
    return EmbeddedImage(content if isinstance(content, bytes) else None, path if isinstance(path, str) else "")


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
    if size > MAX_GROUP_BYTES:
        raise UserError(
            f"{table} has a row group of {group.num_rows} rows that takes {size} bytes unpacked, and {MAX_GROUP_BYTES} "
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
    """The values of a column; of text that is not UTF-8 the rest is kept, as ``Trajectory`` says.

    A text that several rows have is in memory once.
    """
    if arrow.types.is_dictionary(column.type):
        places, texts = column.indices.to_pylist(), column.dictionary
        known = sorted({*places} - {None})
        values = dict(zip(known, values_of_column(arrow, texts.take(arrow.array(known, "int32"))), strict=True))
        return [values.get(place) for place in places]
    if arrow.types.is_struct(column.type):
        names = [field.name for field in column.type]
        inner = [values_of_column(arrow, one) for one in column.flatten()]
        return [dict(zip(names, row, strict=True)) for row in zip(*inner, strict=True)]
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
