"""A user's own images, however many: listed in a table, or in a folder, each beside its caption.

What is wrong with one image is ``Damage``, and the others are read; ``folder`` is stricter.

A table is read once to list its parts. Of each part only its beginning is kept, and of each image eight bytes that
tell whether another has the same name.
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
from imagen_jax.data.sources.image_paths import image_marks, image_path, lies_outside, roots_of
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
        path: where it is; its ending says how it is read.
        mark: changes when it is written again.
        images: the folder that its images lie in. What lies elsewhere is not read: a table may come from strangers.
        image_column: holds their paths in that folder, absolute ones too, or the images themselves.
        caption_column: holds a caption, or a list of them.
    """

    path: Path
    mark: str
    images: Path
    image_column: str
    caption_column: str


class Run(NamedTuple):
    """Rows that follow each other and name the same image.

    Attributes:
        image: its path in the folder, or nothing where the row names none, holds the image itself, or can't be read;
            then it is alone.
        rows: one or more.
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
    """Lists the images of a table in its order, some in each part.

    Rows that follow each other and name the same image are one record with several captions; where they differ in
    something else, the first one counts. A record's key is its image's path, and its concept is its first caption,
    whatever its capitals. Other columns are metadata where they hold text, a number, a truth value or nothing.

    A Parquet table may hold the images themselves: as bytes, or as Hugging Face's struct of bytes and path. Each row is
    then a record, whose key is its number.

    Args:
        table: a file of JSON lines, CSV, values parted by tabs or Parquet: ``.jsonl``, ``.csv``, ``.tsv``,
            ``.parquet``. Text is UTF-8, or UTF-16 with a byte order mark. Maybe in a bucket.
        images: the folder that the paths in the table start from; the table's own if none is given. Absolute paths are
            read where they lead into it, so those of any file where it is ``/``.
        image_column: of the images' paths.
        caption_column: of the captions: each a text, or a list of texts.
        images_per_part: at least 1; the last part may have fewer.

    Raises:
        UserError: a file or folder is not there, or the table can't be read, has no row or lacks a column.
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
        UserError: it can't be read, has no row or lacks a column.
    """
    mark_image = image_marks(table.images)
    found: set[str] = set()
    starts, digests, hashes = [], [], array("Q")
    for chunk in chunks(runs_of(table, None, with_bytes=False), images_per_part):
        starts.append(chunk[0].rows[0].place)
        digests.append(digest_of((*map(content_of, run.rows), mark_run(table, run, mark_image)) for run in chunk))
        hashes.extend(hash_of(run) for run in chunk)
        found.update(name for run in chunk for row in run.rows for name in row.values)
    if not starts:
        raise UserError(f"{table.path} has no rows: list your images in it")
    if found:
        check_columns(table.path, sorted(found), (table.image_column, table.caption_column))
    repeated = repeated_places(hashes)
    parts = []
    for number, (start, digest) in enumerate(zip(starts, digests, strict=True)):
        first = number * images_per_part
        begin, end = np.searchsorted(repeated, (first, first + images_per_part))
        here = tuple(int(place) - first for place in repeated[begin:end])
        read = partial(read_table_part, table, start, min(images_per_part, len(hashes) - first), here)
        parts.append(Part(f"{table.path.name}-{number:06d}", f"{digest} {here}", read))
    return parts


def read_table_part(
    table: Table, start: RowPosition, images: int, repeated: Sequence[int]
) -> Iterator[Record | Damage]:
    """Gives the records of a part of a table, and what is damaged.

    Args:
        table: as it was when the part was listed.
        start: where its first row begins.
        images: how many it has.
        repeated: which of them, counted from 0, have a key that came before.

    Raises:
        UserError: the table is another one by now, or the folder of images is gone.
    """
    try:
        unchanged = mark_of(table.path) == table.mark
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        raise UserError(f"{table.path} was written or removed since it was listed: run the same command again")
    runs = islice(runs_of(table, start), images)
    drafts = (draft_of_run(table, run, place in repeated) for place, run in enumerate(runs))
    yield from with_images(table.images, drafts)


def runs_of(table: Table, start: RowPosition | None, with_bytes: bool = True) -> Iterator[Run]:
    """Gives the rows of a table by their images, from a place on or from the first one.

    Raises:
        UserError: it can't be read.
    """
    read: RowReader = ROW_READERS[table.path.suffix.lower()]
    if read is read_parquet:
        read = partial(read_parquet, with_bytes=with_bytes)
    roots = roots_of(table.images)
    rows = read(table.path, start, (table.image_column, table.caption_column))
    for image, run in groupby(rows, lambda row: image_path(row.values.get(table.image_column), roots) or row.place):
        yield Run(image if isinstance(image, str) else "", list(run))


def mark_run(table: Table, run: Run, mark_image: Callable[[str], str]) -> str:
    """What changes when the image of a run is written again; one that the table holds may, when the table is."""
    value = run.rows[0].values.get(table.image_column)
    if isinstance(value, EmbeddedImage):
        return f"{table.mark} {mark_image(image_path(value.path, roots_of(table.images)))}"
    return mark_image(run.image)


def draft_of_run(table: Table, run: Run, is_repeated: bool) -> Record | Draft | Damage:
    """Makes a record of the rows of an image, or says what is wrong with them."""
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
    if lies_outside(run.image):
        return outside_of(table, key, first)
    values: dict[str, Any] = {}
    for row in run.rows:
        values = row.values | values
    captions = [row.values.get(table.caption_column) for row in run.rows]
    metadata = {name: value for name, value in values.items() if name not in (table.image_column, table.caption_column)}
    return make_draft(key, captions, metadata, table.images / run.image)


def outside_of(table: Table, key: str, row: Row) -> Damage:
    """What is said of an image that does not lie in the folder, and how to name a folder that it lies in."""
    mend = "name the folder that holds it, as in --option=images=FOLDER, where / allows any file of this machine"
    return Damage(key, "image lies outside the folder", f"{row.name}: only what lies in {table.images} is read; {mend}")


def draft_of_embedded(table: Table, row: Row, image: EmbeddedImage) -> Record | Draft | Damage:
    """Makes a record of a row that holds its image, or names its file where it lacks the bytes."""
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
    return outside_of(table, row.name, row) if lies_outside(path) else draft


class ImageFiles(NamedTuple):
    """An image in a folder, and what lies beside it; each by its path in the folder.

    Attributes:
        image: its own.
        text: of its caption, or nothing.
        metadata: of its metadata, or nothing.
    """

    image: str
    text: str
    metadata: str


def folder_parts(folder: str | Path, images_per_part: int = 1000) -> list[Part]:
    """Lists the images of a folder and its subfolders, ordered by path, some in each part.

    The first line of the ``.txt`` file of the same name is an image's caption, and what the ``.json`` file of the same
    name holds of text, numbers and truth values is its metadata, if there is one. A record's key is its path, and its
    concept is its caption, whatever its capitals. Links to folders are followed; images of other formats, and links
    that can't be followed, are damage.

    Args:
        folder: maybe in a bucket.
        images_per_part: at least 1; the last part may have fewer.

    Raises:
        UserError: there is no such folder, or no image in it.
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
            f"{folder} holds no images{why}: put some there ({' '.join(IMAGE_SUFFIXES)}), each beside its .txt"
        )
    parts = []
    for number, chunk in enumerate(chunks(images, images_per_part)):
        files = tuple(files_beside(folder, image, marks) for image in chunk)
        digest = digest_of((name, marks.get(folder / name, "") if name else "") for names in files for name in names)
        parts.append(Part(f"images-{number:06d}", digest, partial(read_folder_part, folder, files)))
    return parts + left_out_part(left_out)


def files_beside(folder: Path, image: Path, files: Mapping[Path, str]) -> ImageFiles:
    """Finds the caption and the metadata of an image among the files of a folder."""

    def find(ending: str) -> str:
        file = image.with_suffix(ending)
        # The second: on some disks apple.TXT is found as apple.txt.
        is_there = file in files or (not in_bucket(file) and file.is_file())
        return file.relative_to(folder).as_posix() if is_there else ""

    return ImageFiles(image.relative_to(folder).as_posix(), find(".txt"), find(".json"))


def read_folder_part(folder: Path, listed: Sequence[ImageFiles]) -> Iterator[Record | Damage]:
    """Gives the records of a part of a folder, and what is damaged.

    Raises:
        UserError: the folder is gone.
    """

    def drafts() -> Iterator[Draft | Damage]:
        for some in chunks(listed, FILES_AT_A_TIME):
            names = [name for files in some for name in (files.text, files.metadata) if name]
            contents = read_contents(folder, [folder / name for name in names])
            read = {name: content for name, content in zip(names, contents, strict=True) if isinstance(content, bytes)}
            yield from (draft_of_files(folder, files, read) for files in some)

    yield from with_images(folder, drafts())


def draft_of_files(folder: Path, files: ImageFiles, contents: Mapping[str, bytes]) -> Draft | Damage:
    """Makes a record of what lies beside an image, or says what is wrong with it."""
    key = printable(files.image)
    caption = None if files.text not in contents else split_lines(decode_text(contents[files.text]))[0]
    try:
        metadata = parse_json_object(contents.get(files.metadata, b"{}").decode("utf-8-sig"))
    except ValueError as error:
        return Damage(key, "metadata is no JSON", str(error))
    return make_draft(key, [caption], metadata, folder / files.image)


def content_of(row: Row) -> str:
    """What a row says, wherever it stands; of one that can't be read, where."""
    return repr(row.values) if not row.problem else f"{row.name} {row.problem}"


def digest_of(items: Iterable[tuple[str, ...]]) -> str:
    """What tells a list of texts from others."""
    digest = blake2b(digest_size=16)
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def hash_of(run: Run) -> int:
    """A number of 64 bits for a run's key."""
    # No file's name holds a zero byte, so rows without one never meet.
    name = run.image or f"{run.rows[0].name}\0"
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def repeated_places(hashes: "array[int]") -> np.ndarray:
    """Where in a list a number stands that stood before, ascending."""
    numbers = np.frombuffer(hashes, np.uint64)
    order = np.argsort(numbers, kind="stable")
    return np.sort(order[1:][numbers[order[1:]] == numbers[order[:-1]]])


def check_folder(folder: Path) -> None:
    """Checks that the folder of images is there.

    Raises:
        UserError: it is not.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder that holds your images")


def check_images_per_part(number: int) -> None:
    """Checks how many images a part should have.

    Raises:
        UserError: none.
    """
    if number < 1:
        raise UserError(f"a part can't have {number} images: choose images_per_part of at least 1")
