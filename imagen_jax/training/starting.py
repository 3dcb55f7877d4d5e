"""Starts a training from weights instead of from random numbers: all of them, or the parts that are named.

weights by path, of a workdir or of exported files -> those that fit the state -> parameters and their average
                                                      a sentence: what was loaded, what is new, what was left

A run that has a checkpoint of its own continues from that, and weights to start from are not read.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from imagen_jax.errors import UserError, nearest_name
from imagen_jax.training.state import TrainState

LISTED = 3
"""Max number of parameters that a sentence names."""


class Weights(NamedTuple):
    """Weights to start from.

    Attributes:
        params: arrays by path, as ``down_0_0/conv_in/kernel``.
        source: where they come from, for messages.
        step: number of their training updates.
    """

    params: Mapping[str, np.ndarray]
    source: str
    step: int


def match(ours: Mapping[str, Any], theirs: Mapping[str, Any], source: str, parts: Sequence[str] = ()) -> list[str]:
    """Returns the paths of the parameters to load.

    Args:
        ours: arrays or shapes of the network's parameters, by path.
        theirs: arrays or shapes of the weights, by path.
        source: where the weights come from, for messages.
        parts: beginnings of the paths to load, such as ``conditioning`` or ``down_``; () for all.

    Raises:
        UserError: a part names no weights, no weight has a place, or one has another shape than its place.
    """
    for part in parts:
        if not any(path.startswith(part) for path in theirs):
            tops = {path.split("/")[0] for path in theirs}
            raise UserError(
                f"no weights of {source} begin with {part!r}{nearest_name(part, tops)}: change "
                "config.training.init_parts"
            )
    loaded = [path for path in ours if path in theirs and (not parts or path.startswith(tuple(parts)))]
    for path in loaded:
        if theirs[path].shape != ours[path].shape:
            raise UserError(
                f"{path} has the shape {theirs[path].shape} in {source}, and this network needs {ours[path].shape}: "
                "name the parts that fit in config.training.init_parts, or change config.network"
            )
    if not loaded:
        raise UserError(
            f"{source} has {listed(list(theirs))}, and this network {listed(list(ours))}: none has the same path. "
            "Change config.network, or leave config.training.init_from out"
        )
    return loaded


def start_from(state: TrainState, weights: Weights, parts: Sequence[str] = ()) -> tuple[TrainState, str]:
    """Replaces parameters of a new state, and their average, by weights with the same path and shape.

    Args:
        state: a new state, on the devices.
        weights: the weights.
        parts: argument of ``match``, which raises the same errors.

    Returns:
        The state, and a sentence that lists what was loaded, what is new and what was left.
    """
    ours, theirs = flatten_dict(state.params, sep="/"), weights.params
    loaded = match(ours, theirs, weights.source, parts)

    def replaced(params: Any) -> Any:
        flat = flatten_dict(params, sep="/")
        return unflatten_dict({**flat, **{path: placed(theirs[path], flat[path]) for path in loaded}}, sep="/")

    new, left = [path for path in ours if path not in loaded], [path for path in theirs if path not in loaded]
    sentence = (
        f"Starts from {weights.source} (step {weights.step}): {len(loaded)} of {len(ours)} parameters loaded"
        f"{f'; new: {listed(new)}' if new else ''}{f'; left: {listed(left)}' if left else ''}."
    )
    return state._replace(params=replaced(state.params), ema_params=replaced(state.ema_params)), sentence


def placed(array: np.ndarray, like: jax.Array) -> jax.Array:
    """Puts a host array on the devices, with dtype and sharding of another array."""
    converted = np.asarray(array, like.dtype)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: converted[index])


def listed(paths: Sequence[str]) -> str:
    """Returns the first few of some paths, and the number of the others."""
    more = len(paths) - LISTED
    return ", ".join(paths[:LISTED]) + (f" and {more} more" if more > 0 else "")
