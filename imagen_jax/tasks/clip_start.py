"""What a new training of a CLIP starts from: random numbers, or the weights that ``training.init_from`` names.

file or folder of a CLIP -> parameters by path -> those of this pair; positions of another resolution are interpolated
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from imagen_jax.clip.pair import Pair
from imagen_jax.clip.towers import describe_tower
from imagen_jax.encoders.pretrained_clip import read_clip_files
from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.training.starting import Weights, match, start_from
from imagen_jax.training.state import TrainState

POSITIONS = "image/positions"

UNSHAPED = ("activation", "heads", "pool", "causal", "end", "network", "norm")
"""Fields of towers that the shapes of the parameters do not show. With another value the weights compute nonsense."""


def read_weights(source: str, pair: Pair, shapes: TrainState) -> Weights:
    """Reads the weights of a CLIP, for parameters of these shapes.

    Raises:
        UserError: they can't be read, or are of towers with another value of a field of ``UNSHAPED``.
    """
    files = read_clip_files(source)
    check_fields(source, "image_tower", describe_tower(pair.image), files.description.image)
    check_fields(source, "text_tower", describe_tower(pair.text), files.description.text)
    params = {path: np.asarray(array) for path, array in flatten_dict(files.parameters, sep="/").items()}
    ours = flatten_dict(shapes.params, sep="/")
    if POSITIONS in params and POSITIONS in ours:
        params[POSITIONS] = resize_positions(params[POSITIONS], ours[POSITIONS].shape)
    return Weights(params, source, 0)


def check_fields(source: str, section: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Checks that a tower and that of the weights have the same fields of ``UNSHAPED``, if they are of one kind.

    Args:
        source: where the weights come from.
        section: the section of the config that describes the tower.
        ours: name and fields of the tower.
        theirs: those of the weights' tower.

    Raises:
        UserError: they differ.
    """
    if ours["name"] != theirs["name"]:
        return
    for name in UNSHAPED:
        if name in ours and name in theirs and ours[name] != theirs[name]:
            raise UserError(
                f"{source} has a tower with {name}={theirs[name]!r}, and the config has config.{section}.{name}="
                f"{ours[name]!r}: set it to {theirs[name]!r}, or start from other weights"
            )


def resize_positions(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolates the positions of a vision transformer to another number of patches, bicubically.

    The position of the class token, the first, stays. Positions of another width are returned unchanged, and do not
    fit.

    Args:
        positions: ``(1 + patches, width)``, of a square of patches.
        shape: the wanted shape.
    """
    sides = [math.isqrt(max(count - 1, 0)) for count in (len(positions), shape[0])]
    squares = [side**2 + 1 for side in sides] == [len(positions), shape[0]]
    if positions.shape == shape or not squares or positions.shape[1:] != shape[1:]:
        return positions
    grid = positions[1:].reshape(sides[0], sides[0], -1)
    resized = jax.image.resize(grid, (sides[1], sides[1], grid.shape[2]), "bicubic", antialias=True)
    return np.concatenate([positions[:1], np.asarray(resized).reshape(sides[1] ** 2, -1)])


def check_clip_start(source: str, pair: Pair, shapes: TrainState) -> None:
    """Checks that the weights that ``training.init_from`` names fit.

    Raises:
        UserError: they can't be read, fit in no or in another shape, or are of towers that compute otherwise.
    """
    if source:
        weights = read_weights(source, pair, shapes)
        match(flatten_dict(shapes.params, sep="/"), weights.params, weights.source)


def start_clip(source: str, pair: Pair, make_state: Callable[[], TrainState], shapes: TrainState) -> TrainState:
    """Returns the state of a new run: of random parameters, or with the weights of ``training.init_from``.

    Raises:
        UserError: the weights can't be read.
    """
    state = make_state()
    if not source:
        return state
    state, sentence = start_from(state, read_weights(source, pair, shapes))
    if processes.is_process_zero():
        print(sentence, flush=True)
    return state
