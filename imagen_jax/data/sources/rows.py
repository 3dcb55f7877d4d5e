"""Rows of a table by column name, and their positions in the file."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from imagen_jax.errors import UserError, nearest_name
from imagen_jax.storage.paths import Path


class RowPosition(NamedTuple):
    """The position where a row begins.

    Attributes:
        offset: offset in bytes; for Parquet, in rows.
        line: line number, from 1; for Parquet, row number.
    """

    offset: int
    line: int


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        position: where it begins.
        name: name for messages, such as ``"line 17"``.
        values: values by column name. Bytes that are not UTF-8 are lone surrogates.
        problem: why the row could not be read, or "".
        detail: details of the problem.
    """

    position: RowPosition
    name: str
    values: dict[str, Any]
    problem: str = ""
    detail: str = ""


class EmbeddedImage(NamedTuple):
    """An image within a table.

    Attributes:
        content: bytes of the image file; None if the row has none, or if they were not requested.
        path: path of the original file, or "".
    """

    content: bytes | None
    path: str


RowReader = Callable[[Path, RowPosition | None, Sequence[str]], Iterator[Row]]
"""``read(table, start, needed)`` yields the rows from a position, or from the first one.

It raises ``UserError`` if the table can't be read, or if its beginning shows that a column of ``needed`` is missing.
"""


def check_columns(table: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    """Checks that a table has the needed columns.

    Raises:
        UserError: a column is missing.
    """
    for column in needed:
        if column not in columns:
            raise UserError(f"{table} has no column {column!r}{nearest_name(column, columns)}")
