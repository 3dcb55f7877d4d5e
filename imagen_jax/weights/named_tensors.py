"""Maps the named tensors of a weights file to the parameters of a Flax module, one at a time, and back."""

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
"""``place(path, array)``: puts a parameter on a device or shards it, and returns it. Raises ``NotFiniteError`` if a
number that it reads is not finite."""

Shape = tuple[int, ...]

Turn = Callable[[str, np.ndarray, Shape], np.ndarray]
"""``turn(path, tensor, shape)``: returns the tensor with its axes in the order of the parameter at ``path``, which has
that shape. If the tensor does not fit, the result has another shape."""

MAX_SHOWN_NAMES = 8
AT_ONCE = 2**22
"""The number of elements that are checked together. It limits the memory of the intermediate results."""


class NotFiniteError(ValueError):
    """Raised if a parameter has numbers that are NaN or infinite."""


def require_finite(array: np.ndarray) -> np.ndarray:
    """Returns an array after a check of its numbers, a few million at a time.

    Raises:
        NotFiniteError: a number is NaN or infinite.
    """
    # NumPy's own floats have the ``kind`` "f" or "c"; bfloat16 and similar types have "V".
    if array.dtype.kind not in "biu":
        flat = array.ravel(order="K")
        for start in range(0, flat.size, AT_ONCE):
            # Checked in float32, which NumPy does many times as fast as in bfloat16.
            part = flat[start : start + AT_ONCE]
            if not np.isfinite(part if part.dtype.kind in "fc" else part.astype(np.float32)).all():
                raise NotFiniteError("it has numbers that are NaN or infinite")
    return array


def keep_on_host(path: str, array: np.ndarray) -> np.ndarray:
    """Returns the array unchanged: a ``ParameterPlacement`` that keeps parameters in host memory."""
    return require_finite(array)


def parameter_shapes(init: Callable[..., Any], *inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape and dtype of each parameter of ``init(key, *inputs)`` by its path, without computing it.

    A path looks like ``layer_0/expand/bias``.
    """
    variables = jax.eval_shape(init, jax.random.key(0), *inputs)
    return flatten_shapes(remove_logical_axes(variables.get("params", {})))


def flatten_shapes(shapes: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Flattens shapes in nested dicts to a dict by path."""
    return flatten_dict(shapes, sep="/")


def turn_from_torch(path: str, tensor: np.ndarray, shape: Shape) -> np.ndarray:
    """Transposes a kernel from PyTorch's (out, in) or (out, in, height, width) to Flax's (in, out) or (h, w, in, out).

    In attention layers, Flax may split the output axis of kernel and bias into (heads, channels of a head).
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
    """Inverts ``turn_from_torch``."""
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
    advice: str = "use the config.json that came with them",
) -> dict:
    """Returns parameters as nested dicts. Each tensor is read, transposed, cast and placed before the next.

    Args:
        model: the name of the model in error messages.
        tensors: tensors under their names in the files.
        shapes: the result of ``parameter_shapes``.
        sources: the tensor name of each path in ``shapes``.
        is_unused: returns whether a tensor may be left over, by its name.
        dtype_of: returns the dtype of a parameter, by its path.
        place: places each parameter; its return value becomes the parameter. See ``ParameterPlacement``.
        turn: changes the axes of a tensor to those of the parameter. See ``Turn``.
        advice: what to do, in error messages about weights that do not fit.

    Raises:
        UserError: a tensor is missing, left over, of the wrong shape or not finite. The message names it.
    """
    # Our folder classes have the attribute ``folder``; plain dicts, as in tests, do not.
    where = f" in {tensors.folder}" if hasattr(tensors, "folder") else ""
    wanted, found = set(sources.values()), set(tensors)
    missing = sorted(wanted - found)
    left_over = sorted(name for name in found - wanted if not is_unused(name))
    if missing or left_over:
        raise UserError(
            f"the {model} weights{where} do not fit the network (missing: {list_names(missing)}; "
            f"left over: {list_names(left_over)}): {advice}"
        )
    parameters = {}
    for path, name in sources.items():
        stored = tensors[name]
        tensor = turn(path, stored, shapes[path].shape)
        if tensor.shape != shapes[path].shape:
            raise UserError(
                f"tensor {name} has shape {stored.shape}, which does not fit {path} of shape "
                f"{shapes[path].shape} of the {model} weights{where}: {advice}"
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
    """Returns the names separated by commas, shortened to the first ``MAX_SHOWN_NAMES``."""
    first_names = ", ".join(names[:MAX_SHOWN_NAMES]) or "none"
    return f"{first_names} and {len(names) - MAX_SHOWN_NAMES} more" if len(names) > MAX_SHOWN_NAMES else first_names
