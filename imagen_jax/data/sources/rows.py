"""What a table's readers give: rows by the names of their columns, and where each begins."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from imagen_jax.errors import UserError, nearest_name
from imagen_jax.storage.paths import Path


class RowPosition(NamedTuple):
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

    place: RowPosition
    name: str
    values: dict[str, Any]
    problem: str = ""
    detail: str = ""


class EmbeddedImage(NamedTuple):
    """What a table that holds images themselves has of one.

    Attributes:
        content: the image file's bytes; None where the row has none, or where they are not asked for.
        path: of the file that it comes from, or nothing.
    """

    content: bytes | None
    path: str


RowReader = Callable[[Path, RowPosition | None, Sequence[str]], Iterator[Row]]
"""``read(table, start, needed)`` gives the rows from a place on, or from the first one. It raises ``UserError`` where
the table can't be read, or where it is known from its beginning that one of the columns ``needed`` is not there."""


def check_columns(table: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    """Checks that a table has the columns that are needed.

    Raises:
        UserError: one is not there.
    """
    for column in needed:
        if column not in columns:
            raise UserError(f"{table} has no column {column!r}{nearest_name(column, columns)}")
