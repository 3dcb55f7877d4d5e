"""Named tensors, as a file of weights has them, to the parameters of a Flax module, one by one; and back."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from imagen_jax.errors import UserError
from imagen_jax.sharding.axes import remove_logical_axes

ParameterPlacement = Callable[[str, np.ndarray], Any]
"""``place(path, array)``: puts a parameter where it is wanted, a device or a sharding, and returns it; raises
``NotFiniteError`` where what it reads of it is not finite."""

Shape = tuple[int, ...]

Turn = Callable[[str, np.ndarray, Shape], np.ndarray]
"""``turn(path, tensor, shape)``: the tensor with its axes as the parameter at ``path``, of that shape, has them; any
other shape where it does not fit."""

SHOWN_NAMES = 8
AT_ONCE = 2**22
"""Numbers that are looked at together, so that what is noted of each takes little memory."""


class NotFiniteError(ValueError):
    """A parameter has numbers that are NaN or infinite."""


def require_finite(array: np.ndarray) -> np.ndarray:
    """Returns an array after looking at its numbers, a few million at a time.

    Raises:
        NotFiniteError: one is NaN or infinite.
    """
    # Of NumPy's own types ``kind`` is "f" or "c"; of bfloat16 and its like "V".
    if array.dtype.kind not in "biu":
        flat = array.ravel(order="K")
        for start in range(0, flat.size, AT_ONCE):
            # In float32, in which NumPy looks at a number many times as fast as in bfloat16.
            part = flat[start : start + AT_ONCE]
            if not np.isfinite(part if part.dtype.kind in "fc" else part.astype(np.float32)).all():
                raise NotFiniteError("it has numbers that are NaN or infinite")
    return array


def keep_on_host(path: str, array: np.ndarray) -> np.ndarray:
    """The ``ParameterPlacement`` that leaves a parameter where it is."""
    return require_finite(array)


def parameter_shapes(init: Callable[..., Any], *inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and dtype of each parameter that ``init(key, *inputs)`` makes, by its path, computing none.

    A path looks like ``layer_0/expand/bias``.
    """
    return flatten_shapes(remove_logical_axes(jax.eval_shape(init, jax.random.key(0), *inputs)["params"]))


def flatten_shapes(shapes: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes as nested dicts, by their paths."""
    return flatten_dict(shapes, sep="/")


def turn_from_torch(path: str, tensor: np.ndarray, shape: Shape) -> np.ndarray:
    """Turns a kernel: PyTorch keeps (out, in) and (out, in, height, width), Flax (in, out) and (h, w, in, out).

    Flax may keep the outputs of an attention as (heads, channels of a head), of kernel and bias.
    """
    if path.endswith("/kernel") and tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    turned = tensor.T if path.endswith("/kernel") else tensor
    heads = 3 if path.endswith("/kernel") else 2
    is_split = path.endswith(("/kernel", "/bias")) and len(shape) == heads == turned.ndim + 1
    if is_split and turned.shape == (*shape[:-2], math.prod(shape[-2:])):
        return turned.reshape(shape)
    return turned


def turn_to_torch(path: str, array: np.ndarray) -> np.ndarray:
    """Undoes ``turn_from_torch``."""
    if path.endswith("/kernel"):
        return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.reshape(array.shape[0], -1).T
    return array.reshape(-1) if path.endswith("/bias") else array


def import_weights(
    model: str,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    sources: Mapping[str, str],
    is_unused: Callable[[str], bool] = lambda name: False,
    dtype_of: Callable[[str], DTypeLike] = lambda path: np.float32,
    place: ParameterPlacement = keep_on_host,
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
        place: see ``ParameterPlacement``; what it returns becomes the parameter.
        turn: see ``Turn``.
        mend: what to do about weights that do not fit, for errors.

    Raises:
        UserError: a tensor is missing, left over, of the wrong shape or not finite; the message names each one.
    """
    # Folders know which they are; a plain mapping, in a test, does not.
    where = f" in {tensors.folder}" if hasattr(tensors, "folder") else ""
    wanted, found = set(sources.values()), set(tensors)
    missing = sorted(wanted - found)
    left_over = sorted(name for name in found - wanted if not is_unused(name))
    if missing or left_over:
        raise UserError(
            f"the {model} weights{where} do not fit the network (missing: {list_names(missing)}; "
            f"left over: {list_names(left_over)}): {mend}"
        )
    parameters = {}
    for path, name in sources.items():
        stored = tensors[name]
        tensor = turn(path, stored, shapes[path].shape)
        if tensor.shape != shapes[path].shape:
            raise UserError(
                f"tensor {name} has shape {stored.shape}, which does not fit {path} of shape "
                f"{shapes[path].shape} of the {model} weights{where}: {mend}"
            )
        try:
            parameters[path] = place(path, np.asarray(tensor, dtype_of(path)))
        except NotFiniteError:
            raise UserError(
                f"tensor {name} of the {model} weights{where} has numbers that are NaN or infinite: it is damaged, or "
                "training diverged; download or export the weights again"
            ) from None
    return unflatten_dict(parameters, sep="/")


def list_names(names: list[str]) -> str:
    """Names with commas between, the first few of many."""
    shown = ", ".join(names[:SHOWN_NAMES]) or "none"
    return f"{shown} and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else shown
