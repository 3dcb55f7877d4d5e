"""What a reader is to ``fuzz.py``; ``parsers`` and ``stored_parsers`` list them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.errors import UserError
from tests.torture.mutations import Make

OUR_ERRORS = (UserError, DamagedImageError)


class Parser(NamedTuple):
    """One reader.

    Attributes:
        make: makes an input.
        read: reads it; raises one of ``OUR_ERRORS`` or nothing.
        close: ends what was begun.
        seconds: of processor time that an input may take.
    """

    make: Make
    read: Callable[[bytes], object]
    close: Callable[[], object] = lambda: None
    seconds: float = 1.0


def reading(file: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Writes the input to a file, and has that read."""

    def act(content: bytes) -> object:
        file.write_bytes(content)
        return read(file)

    return act
