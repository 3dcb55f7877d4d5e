"""The rows of a table of any size, from any place in it: JSON lines, CSV, values parted by tabs, or Parquet."""

import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from imagen_jax.data.parquet_rows import read_parquet
from imagen_jax.data.record_fields import parse_json_object
from imagen_jax.data.rows import Place, Row, RowReader, check_columns
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path

BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
"""How a table may begin, and how its text is then encoded; Excel writes the second."""

LONGEST_LINE = 2**24
"""Bytes."""


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
