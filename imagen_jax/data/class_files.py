"""Class files: the classes of a zero-shot classifier, each with words or phrases that describe it.

As text, one class a line. Without words, the name itself is the only one::

    animals: animal, bird, plant
    flag

As JSON (``.json``), one object::

    {"animals": ["animal", "bird", "plant"], "flag": ["flag"]}
"""

from collections.abc import Sequence

from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path, size_of, to_path

MAX_BYTES = 2**24
"""Max size of a class file. The largest known one, of 21,841 classes of ImageNet, has less than a tenth of that."""

ClassWords = dict[str, tuple[str, ...]]
"""The words or phrases of each class, by the class's name, in the file's order."""


def read_class_file(path: str | Path) -> ClassWords:
    """Reads a class file.

    Args:
        path: the file: JSON if its name ends with ``.json``, else text. Empty lines of a text are skipped.

    Returns:
        At least two classes, each with one or more phrases. A phrase may belong to several classes.

    Raises:
        UserError: the file can't be read, is too large, is not UTF-8, or has another form; or there are fewer than two
            classes, a class without words, or a class or a word of it that is repeated, ignoring case.
    """
    path = to_path(path).expanduser()
    text = read_text(path)
    rows = parse_object(text, path) if path.suffix.lower() == ".json" else parse_lines(text, path)
    if not rows:
        raise UserError(f"{path} is empty: write one class a line, as in 'animals: animal, bird, plant'")
    check_repetitions([name for name, _ in rows], f"the classes of {path}")
    for name, words in rows:
        if not words or not all([name, *words]):
            raise UserError(
                f"{path} has an empty name or an empty word at the class {name!r}: fill it in, or remove it"
            )
        check_repetitions(words, f"the words of the class {name!r} in {path}")
    if len(rows) < 2:
        raise UserError(f"{path} has one class, {rows[0][0]!r}, and all images would belong to it: add another class")
    return {name: tuple(words) for name, words in rows}


def read_text(path: Path) -> str:
    """Reads a text file.

    Raises:
        UserError: it can't be read, is too large, or is not UTF-8.
    """
    try:
        size = size_of(path)
        if size > MAX_BYTES:
            raise UserError(f"{path} has {size} bytes, and a class file has at most {MAX_BYTES}: name another file")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error}): name a class file") from error


def parse_lines(text: str, path: Path) -> list[tuple[str, list[str]]]:
    """Returns name and words of each class of a text, one class a line."""
    rows = []
    for line in filter(None, map(normalise, text.splitlines())):
        name, colon, words = line.partition(":")
        rows.append((normalise(name), [normalise(word) for word in words.split(",")] if colon else [line]))
    return rows


def parse_object(text: str, path: Path) -> list[tuple[str, list[str]]]:
    """Returns name and words of each class of a JSON object.

    Raises:
        UserError: the text is not a JSON object of lists of strings.
    """
    fix = 'write one object, such as {"animals": ["animal", "bird"], "flag": ["flag"]}'
    try:
        classes = parse_json(text, check_names=lambda names: check_repetitions(names, f"the classes of {path}"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): {fix}") from error
    if not isinstance(classes, dict):
        raise UserError(f"{path} contains no JSON object: {fix}")
    for name, words in classes.items():
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f"the words of the class {name!r} in {path} are not a list of strings: {fix}")
    return [(normalise(name), [normalise(word) for word in words]) for name, words in classes.items()]


def normalise(text: str) -> str:
    """Removes white space at both ends, and replaces other white space by single spaces."""
    return " ".join(text.split())


def check_repetitions(names: Sequence[str], what: str) -> None:
    """Checks that no name is repeated, ignoring case.

    Raises:
        UserError: one is; the message contains ``what``.
    """
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise UserError(f"{what} repeat {name!r}: name it once")
        seen.add(name.casefold())
