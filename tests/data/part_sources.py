"""Sources that tests prepare; functions of a module, for worker processes read them too."""

import io
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from imagen_jax.data.sources.records import Damage, Part, Record

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (40, 60, 210)}


def draw(number, size=(40, 32)):
    """An image that no other number gives: blocks of a random grey on a colour."""
    generator = np.random.default_rng(number)
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = list(COLOURS.values())[number % 3]
    blocks = generator.integers(0, 120, (size[0] // 4, size[1] // 4, 1), np.uint8).repeat(4, 0).repeat(4, 1)
    return pixels + np.minimum(blocks, 255 - pixels)


def draw_smooth(number):
    """An image like a photo: few of its neighbours are equally bright."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC))


def encode(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def record(number, **changed):
    colour = list(COLOURS)[number % 3]
    fields = {
        "key": f"image-{number:05d}",
        "captions": (f"a {colour} picture", f"picture {number} is {colour}"),
        "encoded": encode(draw(number)),
        "metadata": {"score": number / 10, "licence": "CC0"},
        **changed,
    }
    return Record(**fields)


def read(first, count):
    """Every tenth is damaged in one of three ways."""
    for number in range(first, first + count):
        if number % 10 != 7:
            yield record(number)
        elif number % 30 == 7:
            yield Damage(f"image-{number:05d}", "no caption")
        elif number % 30 == 17:
            yield record(number, encoded=b"<html>")
        else:
            yield record(number, encoded=encode(draw(number))[:-40])


def parts(count, per_part=20, read_part=read):
    return [
        Part(f"part-{first}", f"version 1 of {first}", partial(read_part, first, min(per_part, count - first)))
        for first in range(0, count, per_part)
    ]


def read_until_killed(folder, first, count):
    """The first time that the third part is read, its process is killed in the midst of it."""
    for number, item in enumerate(read(first, count)):
        if first == 2 * count and number == count // 2 and not (Path(folder) / "killed").exists():
            (Path(folder) / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield item


def listed(records):
    """A part of records at hand."""
    return Part("listed", "1", partial(iter, tuple(records)))


def read_slowly(folder, first, count):
    """Writes a file named after the process that reads, and takes a minute."""
    (Path(folder) / f"worker-{os.getpid()}").touch()
    for item in read(first, count):
        time.sleep(6)
        yield item
