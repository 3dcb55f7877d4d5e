"""Reads the rows of a Parquet table of any size, from any row, within memory limits."""

import importlib
from collections.abc import Iterator, Sequence
from itertools import islice
from types import ModuleType
from typing import Any

from imagen_jax.data.sources.rows import EmbeddedImage, Row, RowPosition, check_columns
from imagen_jax.errors import UserError
from imagen_jax.errors.packages import require_packages
from imagen_jax.storage.buckets import is_refusal
from imagen_jax.storage.paths import Path
from imagen_jax.storage.refusals import raise_if_denied

ROWS_AT_A_TIME = 1000

MAX_GROUP_BYTES = 2**31
"""Max uncompressed bytes of a row group in the columns that are read.

A single row or page may take nearly all of them.
"""

BYTES_AT_A_TIME = 2**27
"""Max bytes of the rows read at a time.

A single large row may exceed it, and so may lists of very different lengths.
"""

SMALL_GROUP = 2**23
"""Max bytes of a row group that is read with dictionaries, where each repeated text is in memory once.

With dictionaries a larger group would be kept in memory as a whole. It is read without them, fewer rows at a time.
"""

PAGES_AT_A_TIME = 2**20
"""Number of compressed bytes of a column that are read at a time."""

LISTED_VALUE = 64
"""Min bytes of a value of a list in memory; in the file, repeated values may take almost none."""


def read_parquet(
    table: Path, start: RowPosition | None, needed: Sequence[str], with_bytes: bool = True
) -> Iterator[Row]:
    """Yields the rows of a Parquet table: the needed columns, and those of text, numbers and booleans.

    A needed column may contain the images themselves, as bytes or as Hugging Face's struct of bytes and path. Its
    values are then ``EmbeddedImage``s; with ``with_bytes=False`` their content is not read. The values of a struct
    without bytes are the paths.

    Args:
        table: path of the table.
        start: position of the first row; None: the table's first row.
        needed: names of the columns that must exist.
        with_bytes: whether to read the content of embedded images.

    Raises:
        UserError: pyarrow is not installed, the table can't be read, has too large a row group, or lacks a needed
            column.
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
                    reader, rows = file, rows_at_a_time(chunks, file.metadata.row_group(group).num_rows)
                for batch in reader.iter_batches(rows, row_groups=[group], columns=columns):
                    for values in rows_of_batch(arrow, batch.slice(min(skipped, len(batch)))):
                        values = values | {name: embedded_image(values.get(name)) for name in embedded}
                        yield Row(RowPosition(number, number + 1), f"row {number + 1}", values)
                        number += 1
                    skipped = max(skipped - len(batch), 0)
    # pyarrow also raises OSError for invalid files, and decodes column names as UTF-8.
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise_if_denied(error, table)
        if is_refusal(error):
            raise
        raise UserError(f"{table} can't be read as Parquet ({error}): write it again") from error


def import_arrow(table: Path) -> ModuleType:
    """Imports pyarrow.

    Raises:
        UserError: it is not installed.
    """
    require_packages("pyarrow", what=f"the Parquet table {table}")
    return importlib.import_module("pyarrow")


def is_scalar(arrow: ModuleType, kind: Any) -> bool:
    """Returns whether a column's type is text, number, boolean or null."""
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
    """Returns whether a column's type is bytes."""
    types = arrow.types
    return any(check(kind) for check in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary))


def holds_bytes(arrow: ModuleType, field: Any) -> bool:
    """Returns whether a column contains images: bytes, or a struct with a field ``bytes``."""
    inner = {one.name: one.type for one in field.type} if arrow.types.is_struct(field.type) else {}
    return is_bytes(arrow, field.type) or ("bytes" in inner and is_bytes(arrow, inner["bytes"]))


def columns_of(arrow: ModuleType, field: Any, is_needed: bool, with_bytes: bool) -> list[str]:
    """Returns the paths to read of a column; none if it is neither needed nor a scalar."""
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
    """Makes an ``EmbeddedImage`` of the value of its column."""
    values = value if isinstance(value, dict) else {"bytes": value}
    content, path = values.get("bytes"), values.get("path")
    return EmbeddedImage(content if isinstance(content, bytes) else None, path if isinstance(path, str) else "")


def find_row_group(file: Any, row: int) -> tuple[int, int]:
    """Returns the index of the row group with a row of a Parquet file, and the number of its rows before that row."""
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return group, row
        row -= rows
    return file.num_row_groups, 0


def text_columns(metadata: Any) -> list[str]:
    """Returns the paths of a Parquet file's text and bytes columns, including those in lists."""
    leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def chunks_read(table: Path, file: Any, number: int, columns: Sequence[str]) -> list[Any]:
    """Returns the metadata of the column chunks to read of a row group, including those in lists.

    Raises:
        UserError: they are too large.
    """
    # For invalid metadata pyarrow's reader raises an error here, while ``column`` below would crash the process.
    next(file.iter_batches(1, row_groups=[number], columns=columns), None)
    group, schema = file.metadata.row_group(number), file.metadata.schema
    paths = [f"{schema.column(index).path}." for index in range(group.num_columns)]
    indices = [index for index, path in enumerate(paths) if any(path.startswith(f"{name}.") for name in columns)]
    read = [group.column(index) for index in indices]
    size = sum(map(unpacked_size, read)) + LISTED_VALUE * sum(max(each.num_values - group.num_rows, 0) for each in read)
    if size > MAX_GROUP_BYTES:
        raise UserError(
            f"{table} has a row group of {group.num_rows} rows that takes {size} bytes unpacked, more than "
            f"{MAX_GROUP_BYTES}: write smaller row groups, such as with row_group_size=10000 of pyarrow's write_table"
        )
    return read


def unpacked_size(chunk: Any) -> int:
    """Returns the uncompressed bytes of a column chunk, as the file states, where texts in a dictionary count once."""
    return int(chunk.total_uncompressed_size)


def shares_beginnings(chunk: Any) -> bool:
    """Returns whether texts are stored as differences from the previous text (``DELTA_BYTE_ARRAY``)."""
    return "DELTA_BYTE_ARRAY" in chunk.encodings


def rows_at_a_time(chunks: Sequence[Any], rows: int) -> int:
    """Returns the number of rows to read at a time from a row group of ``rows`` rows.

    The file does not state how long a text is that several rows share. It is at most as long as all columns together.
    """
    size = sum(map(unpacked_size, chunks))
    values_per_row = max(-(-chunk.num_values // max(rows, 1)) for chunk in chunks)
    return max(1, min(ROWS_AT_A_TIME, BYTES_AT_A_TIME // max(size * values_per_row, 1)))


def rows_of_batch(arrow: ModuleType, batch: Any) -> Iterator[dict[str, Any]]:
    """Yields the rows of a pyarrow record batch as dicts by column name."""
    columns = [values_of_column(arrow, column) for column in batch.columns]
    for row in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


def values_of_column(arrow: ModuleType, column: Any) -> list[Any]:
    """Returns the values of a column; bytes that are not UTF-8 become lone surrogates, as in ``Row``.

    A text that several rows share is in memory once.
    """
    if arrow.types.is_dictionary(column.type):
        indices, texts = column.indices.to_pylist(), column.dictionary
        known = sorted({*indices} - {None})
        values = dict(zip(known, values_of_column(arrow, texts.take(arrow.array(known, "int32"))), strict=True))
        return [values.get(index) for index in indices]
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
    """Returns the value of a pyarrow scalar, or of a list of them."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if hasattr(scalar, "as_buffer"):
            return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
        return [value_of_scalar(value) for value in scalar.values]
