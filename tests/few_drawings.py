"""Every tenth drawing of OpenMoji in the place of all: to render and to embed 1,918 takes half a minute.

All are rendered by a thorough test of ``tests/test_pretrained.py``.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imagen_jax.data.sources.captioned_image import CaptionedImage
from imagen_jax.data.sources.openmoji import openmoji_images
from imagen_jax.data.sources.sources import SOURCES


def every_tenth(skin_tones: bool = False) -> list[CaptionedImage]:
    """Lists every tenth drawing."""
    return openmoji_images(skin_tones)[::10]


@contextmanager
def few_drawings() -> Iterator[None]:
    """Inside, the source ``openmoji`` has every tenth drawing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "openmoji", dataclasses.replace(SOURCES["openmoji"], list_all=every_tenth))
        yield
