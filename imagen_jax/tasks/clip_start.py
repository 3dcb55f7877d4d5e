"""What a new training of a CLIP starts from: random numbers, or the weights that ``training.init_from`` names.

file or folder of a CLIP -> parameters by path -> those of this pair; positions of another resolution are interpolated
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from imagen_jax.cascade.experiment import ClipExperiment
from imagen_jax.clip.description import COMPUTE
from imagen_jax.clip.feature_head import FeatureHead
from imagen_jax.clip.folder import ClipFiles
from imagen_jax.clip.pair import Pair
from imagen_jax.clip.towers import describe_tower
from imagen_jax.encoders.pretrained_clip import read_clip_files
from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.tasks.clip_tokenizer import read_tokenizer
from imagen_jax.training.starting import Weights, match, start_from
from imagen_jax.training.state import TrainState

POSITIONS = "image/positions"

FREE = COMPUTE | {"resolution", "noise_conditioned", "dropout"}
"""Fields of a tower in which a training may differ from the weights that it starts from."""

SAMPLE = ("a photo of a cat.", "3D red apple", "!")
"""Captions by which two tokenizers are compared."""


def read_weights(config: ClipExperiment, pair: Pair, shapes: TrainState) -> Weights:
    """Reads the CLIP that ``training.init_from`` names, for parameters of these shapes.

    Raises:
        UserError: it can't be read, or computes otherwise than the config says.
    """
    source = config.training.init_from
    files = read_clip_files(source)
    check_fields(source, "image_tower", describe_tower(pair.image), files.description.image)
    check_fields(source, "text_tower", describe_tower(pair.text), files.description.text)
    for name in ("mean", "deviation"):
        check_equal(source, f"config.clip.{name}", getattr(config.clip, name), getattr(files.description, name))
    check_same_tokens(config, pair, files)
    params = {path: np.asarray(array) for path, array in flatten_dict(files.parameters, sep="/").items()}
    ours = flatten_dict(shapes.params, sep="/")
    if POSITIONS in params and POSITIONS in ours:
        params[POSITIONS] = resize_positions(params[POSITIONS], ours[POSITIONS].shape)
    return Weights(params, source, 0)


def check_fields(source: str, section: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Checks that a tower and that of the weights have the same fields but ``FREE``, if they are of one kind.

    The shapes of the parameters show neither the activation nor the heads, so weights of another tower may fit, and
    compute nonsense.

    Args:
        source: where the weights come from.
        section: the section of the config that describes the tower.
        ours: name and fields of the tower.
        theirs: those of the weights' tower.

    Raises:
        UserError: they differ.
    """
    if ours["name"] == theirs["name"]:
        for name in sorted(ours.keys() & theirs.keys() - FREE):
            check_equal(source, f"config.{section}.{name}", ours[name], theirs[name])


def check_equal(source: str, key: str, ours: Any, theirs: Any) -> None:
    """Checks that the config and the weights have the same value.

    Raises:
        UserError: they differ.
    """
    if ours != theirs:
        raise UserError(
            f"{source} has {key.rpartition('.')[2]}={theirs!r}, and the config {key}={ours!r}: set it to {theirs!r}, "
            "in a config file if the config lacks the key, or start from other weights"
        )


def check_same_tokens(config: ClipExperiment, pair: Pair, files: ClipFiles) -> None:
    """Checks that captions get the tokens that the table of tokens was trained with.

    Raises:
        UserError: the config names no tokenizer, or another one.
    """
    if isinstance(pair.text, FeatureHead) or files.description.text["name"] != describe_tower(pair.text)["name"]:
        return
    source, named = config.training.init_from, config.clip.tokenizer
    if not named:
        raise UserError(
            f"{source} has its own tokens: set config.clip.tokenizer to it, or to the file of its vocabulary"
        )
    if list(files.tokenize(SAMPLE)) != list(read_tokenizer(named)(SAMPLE)):
        raise UserError(f"config.clip.tokenizer={named} makes other tokens than that of {source}: set it to the latter")


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


def check_clip_start(config: ClipExperiment, pair: Pair, shapes: TrainState) -> None:
    """Checks that the weights that ``training.init_from`` names fit.

    Raises:
        UserError: they can't be read, fit in no or in another shape, or compute otherwise than the config says.
    """
    if config.training.init_from:
        weights = read_weights(config, pair, shapes)
        match(flatten_dict(shapes.params, sep="/"), weights.params, weights.source)


def start_clip(
    config: ClipExperiment, pair: Pair, make_state: Callable[[], TrainState], shapes: TrainState
) -> TrainState:
    """Returns the state of a new run: of random parameters, or with the weights of ``training.init_from``.

    Raises:
        UserError: the weights can't be read.
    """
    state = make_state()
    if not config.training.init_from:
        return state
    state, sentence = start_from(state, read_weights(config, pair, shapes))
    if processes.is_process_zero():
        print(sentence, flush=True)
    return state
