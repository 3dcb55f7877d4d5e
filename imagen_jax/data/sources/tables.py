"""A user's own images, in any number: listed in a table, or in a folder, each next to its caption.

An invalid image becomes ``Damage``, and the others are read; the source ``folder`` raises instead.

A table is read once to list its parts. Only each part's start position is kept, and for each image a hash of eight
bytes, which finds repeated paths.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.data.sources.drafts import (
    FILES_AT_A_TIME,
    MAX_FILE_BYTES,
    Draft,
    chunks,
    make_draft,
    read_contents,
    with_image,
    with_images,
)
from imagen_jax.data.sources.image_folders import IMAGE_SUFFIXES, describe_left_out, left_out_part, list_image_folder
from imagen_jax.data.sources.image_paths import image_marks, image_path, is_outside, roots_of
from imagen_jax.data.sources.parquet_rows import read_parquet
from imagen_jax.data.sources.record_fields import decode_text, parse_json_object, printable, split_lines
from imagen_jax.data.sources.records import Damage, Part, Record
from imagen_jax.data.sources.rows import EmbeddedImage, Row, RowPosition, RowReader, check_columns
from imagen_jax.data.sources.table_rows import ROW_READERS
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.paths import Path, in_bucket, mark_of, to_path

ATTRIBUTION = "The user's own images"


@dataclass(frozen=True)
class Table:
    """A table of images.

    Attributes:
        path: path of the table; its suffix determines the format.
        mark: text that changes when the table is rewritten.
        images: folder of the images. Files outside it are not read, since a table may come from strangers.
        image_column: column of image paths within that folder, absolute ones too, or of the images themselves.
        caption_column: column of captions, each a text or a list of texts.
    """

    path: Path
    mark: str
    images: Path
    image_column: str
    caption_column: str


class Run(NamedTuple):
    """Consecutive rows that name the same image.

    Attributes:
        image: path of the image in the folder; "" if the row names none, contains the image itself, or can't be read.
            Such a row is a run of its own.
        rows: one or more rows.
    """

    image: str
    rows: list[Row]


def table_parts(
    table: str | Path,
    images: str | Path = "",
    image_column: str = "image",
    caption_column: str = "caption",
    images_per_part: int = 1000,
) -> list[Part]:
    """Lists the images of a table in its order, in parts.

    Consecutive rows that name the same image are one record with several captions; where other values differ, the first
    row counts. A record's key is its image's path, and its concept is its first caption, ignoring case. Other columns
    become metadata if they contain text, numbers, booleans or null.

    A Parquet table may contain the images themselves: as bytes, or as Hugging Face's struct of bytes and path. Each row
    is then a record, whose key is its row number.

    Args:
        table: path of a file of JSON lines, CSV, tab-separated values or Parquet: ``.jsonl`` or ``.ndjson``, ``.csv``,
            ``.tsv``, ``.parquet``. Text is UTF-8, or UTF-16 with a byte order mark. It may be in a bucket.
        images: folder that relative paths start from; "": the table's folder. Absolute paths are read only if they lead
            into it; ``/`` therefore allows any file.
        image_column: name of the column of image paths, or of images.
        caption_column: name of the column of captions, each a text or a list of texts.
        images_per_part: number of images of a part, at least 1; the last part may have fewer.

    Raises:
        UserError: a file or folder does not exist, the table can't be read, has no row or lacks a column, or
            ``images_per_part`` is below 1.
    """
    if not str(table):
        raise UserError("no table of images is given: name it in --option=table=FILE")
    path = to_path(table).expanduser()
    if not path.is_file():
        raise UserError(f"there is no table {path}: give the file that lists your images")
    lookup(ROW_READERS, path.suffix.lower(), "ending of a table")
    folder = to_path(images).expanduser() if str(images) else path.parent
    check_folder(folder)
    check_images_per_part(images_per_part)
    return list_parts(Table(path, mark_of(path), folder, image_column, caption_column), images_per_part)


def list_parts(table: Table, images_per_part: int) -> list[Part]:
    """Lists the parts of a table.

    Raises:
        UserError: the table can't be read, has no row or lacks a column.
    """
    mark_image = image_marks(table.images)
    found: set[str] = set()
    starts, digests, hashes = [], [], array("Q")
    for chunk in chunks(runs_of(table, None, with_bytes=False), images_per_part):
        starts.append(chunk[0].rows[0].position)
        digests.append(digest_of((*map(content_of, run.rows), mark_run(table, run, mark_image)) for run in chunk))
        hashes.extend(hash_of(run) for run in chunk)
        found.update(name for run in chunk for row in run.rows for name in row.values)
    if not starts:
        raise UserError(f"{table.path} has no rows: list your images in it")
    if found:
        check_columns(table.path, sorted(found), (table.image_column, table.caption_column))
    repeated = repeated_indices(hashes)
    parts = []
    for number, (start, digest) in enumerate(zip(starts, digests, strict=True)):
        first = number * images_per_part
        begin, end = np.searchsorted(repeated, (first, first + images_per_part))
        here = tuple(int(index) - first for index in repeated[begin:end])
        read = partial(read_table_part, table, start, min(images_per_part, len(hashes) - first), here)
        parts.append(Part(f"{table.path.name}-{number:06d}", f"{digest} {here}", read))
    return parts


def read_table_part(
    table: Table, start: RowPosition, images: int, repeated: Sequence[int]
) -> Iterator[Record | Damage]:
    """Yields the records and the damage of a part of a table.

    Args:
        table: the table as it was when the part was listed.
        start: position of the part's first row.
        images: number of images of the part.
        repeated: indices, from 0, of the part's images whose key occurred earlier.

    Raises:
        UserError: the table has changed since, or the folder of images was removed.
    """
    try:
        unchanged = mark_of(table.path) == table.mark
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        raise UserError(f"{table.path} was written or removed since it was listed: run the same command again")
    runs = islice(runs_of(table, start), images)
    drafts = (draft_of_run(table, run, index in repeated) for index, run in enumerate(runs))
    yield from with_images(table.images, drafts)


def runs_of(table: Table, start: RowPosition | None, with_bytes: bool = True) -> Iterator[Run]:
    """Yields the rows of a table grouped by image, from a position or from the first row.

    Raises:
        UserError: the table can't be read.
    """
    read: RowReader = ROW_READERS[table.path.suffix.lower()]
    if read is read_parquet:
        read = partial(read_parquet, with_bytes=with_bytes)
    roots = roots_of(table.images)
    rows = read(table.path, start, (table.image_column, table.caption_column))
    for image, run in groupby(rows, lambda row: image_path(row.values.get(table.image_column), roots) or row.position):
        yield Run(image if isinstance(image, str) else "", list(run))


def mark_run(table: Table, run: Run, mark_image: Callable[[str], str]) -> str:
    """Returns a text that changes when the image of a run is rewritten.

    For an embedded image, it also changes when the table is rewritten.
    """
    value = run.rows[0].values.get(table.image_column)
    if isinstance(value, EmbeddedImage):
        return f"{table.mark} {mark_image(image_path(value.path, roots_of(table.images)))}"
    return mark_image(run.image)


def draft_of_run(table: Table, run: Run, is_repeated: bool) -> Record | Draft | Damage:
    """Makes a record of the rows of an image, or returns the damage."""
    first = run.rows[0]
    if first.problem:
        return Damage(first.name, first.problem, first.detail)
    value = first.values.get(table.image_column)
    if isinstance(value, EmbeddedImage):
        return draft_of_embedded(table, first, value)
    if not run.image:
        return Damage(first.name, "no image file", f"there is no path in {table.image_column!r}")
    key = printable(run.image)
    if is_repeated:
        return Damage(key, "key appears twice", first.name)
    if is_outside(run.image):
        return outside_of(table, key, first)
    values: dict[str, Any] = {}
    for row in run.rows:
        values = row.values | values
    captions = [row.values.get(table.caption_column) for row in run.rows]
    metadata = {name: value for name, value in values.items() if name not in (table.image_column, table.caption_column)}
    return make_draft(key, captions, metadata, table.images / run.image)


def outside_of(table: Table, key: str, row: Row) -> Damage:
    """Returns the damage of an image outside the folder, with advice on how to name its folder."""
    fix = "name its folder, as in --option=images=FOLDER, where / allows any file of this machine"
    return Damage(key, "image is outside the folder", f"{row.name}: only images in {table.images} are read; {fix}")


def draft_of_embedded(table: Table, row: Row, image: EmbeddedImage) -> Record | Draft | Damage:
    """Makes a record of a row with an embedded image; if its bytes are missing, the image is read from its path."""
    path = image_path(image.path, roots_of(table.images))
    metadata = {
        name: value for name, value in row.values.items() if name not in (table.image_column, table.caption_column)
    }
    if path:
        metadata[f"{table.image_column}.path"] = image.path
    draft = make_draft(row.name, [row.values.get(table.caption_column)], metadata, table.images / (path or "."))
    if isinstance(draft, Damage):
        return draft
    if image.content is not None:
        if len(image.content) > MAX_FILE_BYTES:
            return Damage(row.name, "no image file", f"it is over {MAX_FILE_BYTES} bytes")
        return with_image(draft.record, image.content)
    if not path:
        return Damage(row.name, "no image file", f"there are neither bytes nor a path in {table.image_column!r}")
    return outside_of(table, row.name, row) if is_outside(path) else draft


class ImageFiles(NamedTuple):
    """An image in a folder and the files next to it, as paths relative to the folder.

    Attributes:
        image: path of the image.
        text: path of its caption file, or "".
        metadata: path of its metadata file, or "".
    """

    image: str
    text: str
    metadata: str


def folder_parts(folder: str | Path, images_per_part: int = 1000) -> list[Part]:
    """Lists the images of a folder and its subfolders, ordered by path, in parts.

    An image's caption is the first line of the ``.txt`` file of the same name. Texts, numbers, booleans and nulls in
    the ``.json`` file of the same name, if it exists, become its metadata. A record's key is its path, and its concept
    is its caption, ignoring case. Links to folders are followed; images of other formats, and links that can't be
    followed, are damage.

    Args:
        folder: path of the folder, which may be in a bucket.
        images_per_part: number of images of a part, at least 1; the last part may have fewer.

    Raises:
        UserError: the folder does not exist or contains no image, or ``images_per_part`` is below 1.
    """
    if not str(folder):
        raise UserError("no folder of images is given: name it in --option=folder=FOLDER")
    folder = to_path(folder).expanduser()
    check_folder(folder)
    check_images_per_part(images_per_part)
    marks, images, left_out = list_image_folder(folder)
    if not images:
        why = f" but {describe_left_out(left_out)}" if left_out else ""
        raise UserError(
            f"{folder} has no images{why}: put some there ({' '.join(IMAGE_SUFFIXES)}), each beside its .txt"
        )
    parts = []
    for number, chunk in enumerate(chunks(images, images_per_part)):
        files = tuple(files_beside(folder, image, marks) for image in chunk)
        digest = digest_of((name, marks.get(folder / name, "") if name else "") for names in files for name in names)
        parts.append(Part(f"images-{number:06d}", digest, partial(read_folder_part, folder, files)))
    return parts + left_out_part(left_out)


def files_beside(folder: Path, image: Path, files: Mapping[Path, str]) -> ImageFiles:
    """Finds the caption and metadata files of an image among the files of a folder."""

    def find(ending: str) -> str:
        file = image.with_suffix(ending)
        # The second test: case-insensitive disks find apple.TXT as apple.txt.
        is_there = file in files or (not in_bucket(file) and file.is_file())
        return file.relative_to(folder).as_posix() if is_there else ""

    return ImageFiles(image.relative_to(folder).as_posix(), find(".txt"), find(".json"))


def read_folder_part(folder: Path, listed: Sequence[ImageFiles]) -> Iterator[Record | Damage]:
    """Yields the records and the damage of a part of a folder.

    Raises:
        UserError: the folder was removed.
    """

    def drafts() -> Iterator[Draft | Damage]:
        for some in chunks(listed, FILES_AT_A_TIME):
            names = [name for files in some for name in (files.text, files.metadata) if name]
            contents = read_contents(folder, [folder / name for name in names])
            read = {name: content for name, content in zip(names, contents, strict=True) if isinstance(content, bytes)}
            yield from (draft_of_files(folder, files, read) for files in some)

    yield from with_images(folder, drafts())


def draft_of_files(folder: Path, files: ImageFiles, contents: Mapping[str, bytes]) -> Draft | Damage:
    """Makes a record of an image and the files next to it, or returns the damage."""
    key = printable(files.image)
    caption = None if files.text not in contents else split_lines(decode_text(contents[files.text]))[0]
    try:
        metadata = parse_json_object(contents.get(files.metadata, b"{}").decode("utf-8-sig"))
    except ValueError as error:
        return Damage(key, "metadata is not JSON", str(error))
    return make_draft(key, [caption], metadata, folder / files.image)


def content_of(row: Row) -> str:
    """Returns a row's values as text, independent of its position; for an unreadable row, its name and problem."""
    return repr(row.values) if not row.problem else f"{row.name} {row.problem}"


def digest_of(items: Iterable[tuple[str, ...]]) -> str:
    """Returns a hash that identifies a list of tuples of text."""
    digest = blake2b(digest_size=16)
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def hash_of(run: Run) -> int:
    """Returns a 64-bit hash of a run's key."""
    # File names contain no zero byte, so rows without a path never equal a path.
    name = run.image or f"{run.rows[0].name}\0"
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def repeated_indices(hashes: "array[int]") -> np.ndarray:
    """Returns the indices, ascending, of numbers that occurred earlier in the list."""
    numbers = np.frombuffer(hashes, np.uint64)
    order = np.argsort(numbers, kind="stable")
    return np.sort(order[1:][numbers[order[1:]] == numbers[order[:-1]]])


def check_folder(folder: Path) -> None:
    """Checks that the folder of images exists.

    Raises:
        UserError: it does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder with your images")


def check_images_per_part(number: int) -> None:
    """Checks the number of images of a part.

    Raises:
        UserError: it is below 1.
    """
    if number < 1:
        raise UserError(f"images_per_part is {number}: choose 1 or more")
