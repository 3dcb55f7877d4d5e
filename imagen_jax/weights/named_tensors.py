"""Named tensors, as a file of weights has them, to the parameters of a Flax module, one by one; and back."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from imagen_jax.errors import UserError

Place = Callable[[str, np.ndarray], Any]
"""``place(path, array)``: puts a parameter where it is wanted, a device or a sharding, and returns it."""

Turn = Callable[[str, np.ndarray], np.ndarray]
"""``turn(path, tensor)``: the tensor with its axes in the order that the parameter at ``path`` has them."""

SHOWN_NAMES = 8


def parameter_shapes(init: Callable[..., Any], *inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and dtype of each parameter that ``init(key, *inputs)`` makes, by its path, computing none.

    A path looks like ``layer_0/expand/bias``.
    """
    return flatten_dict(jax.eval_shape(init, jax.random.key(0), *inputs)["params"], sep="/")


def turn_from_torch(path: str, tensor: np.ndarray) -> np.ndarray:
    """Turns a kernel: PyTorch keeps (out, in) and (out, in, height, width), Flax (in, out) and (h, w, in, out)."""
    if not path.endswith("/kernel"):
        return tensor
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def turn_to_torch(path: str, array: np.ndarray) -> np.ndarray:
    """Undoes ``turn_from_torch``."""
    if not path.endswith("/kernel"):
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def import_weights(
    model: str,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    sources: Mapping[str, str],
    is_unused: Callable[[str], bool] = lambda name: False,
    dtype_of: Callable[[str], DTypeLike] = lambda path: np.float32,
    place: Place = lambda path, array: array,
    turn: Turn = turn_from_torch,
    mend: str = "use the config.json that came with them",
) -> dict:
    """Returns parameters as nested dicts; each tensor is read, turned, cast and placed before the next.

    Args:
        model: what to call the model, in errors.
        tensors: by the names that the files give them.
        shapes: from ``parameter_shapes``.
        sources: the name of the tensor of each path in ``shapes``.
        is_unused: whether a tensor may be left over.
        dtype_of: path to the dtype of that parameter.
        place: see ``Place``; what it returns becomes the parameter.
        turn: see ``Turn``.
        mend: what to do about weights that do not fit, for errors.

    Raises:
        UserError: a tensor is missing, left over or of the wrong shape; the message names each one.
    """
    wanted, found = set(sources.values()), set(tensors)
    missing = sorted(wanted - found)
    left_over = sorted(name for name in found - wanted if not is_unused(name))
    if missing or left_over:
        raise UserError(
            f"the {model} weights do not fit the network (missing: {list_names(missing)}; "
            f"left over: {list_names(left_over)}): {mend}"
        )
    parameters = {}
    for path, name in sources.items():
        stored = tensors[name]
        tensor = turn(path, stored) if stored.ndim in (1, shapes[path].ndim) else stored
        if tensor.shape != shapes[path].shape:
            raise UserError(
                f"tensor {name} has shape {stored.shape}, which does not fit {path} of shape "
                f"{shapes[path].shape} of the {model} weights: {mend}"
            )
        parameters[path] = place(path, np.asarray(tensor, dtype_of(path)))
    return unflatten_dict(parameters, sep="/")


def list_names(names: list[str]) -> str:
    """Names with commas between, the first few of many."""
    shown = ", ".join(names[:SHOWN_NAMES]) or "none"
    return f"{shown} and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else shown
