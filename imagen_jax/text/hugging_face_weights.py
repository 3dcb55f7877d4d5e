"""Tensors named as in Hugging Face's files to the parameters of a text encoder's module, one by one."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from imagen_jax.errors import UserError

Place = Callable[[str, np.ndarray], Any]
"""``place(path, array)``: puts a parameter where it is wanted, a device or a sharding, and returns it."""


def parameter_shapes(encoder: nn.Module) -> dict[str, Any]:
    """Returns shape and dtype of each parameter, by its path (``layer_0/expand/bias``), without computing any."""
    ids = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), ids, ids == 0)["params"]
    return flatten_dict(shapes, sep="/")


def import_weights(
    model: str,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    sources: Mapping[str, str],
    is_unused: Callable[[str], bool],
    dtype_of: Callable[[str], DTypeLike] = lambda path: np.float32,
    place: Place = lambda path, array: array,
) -> dict:
    """Returns parameters as nested dicts; each tensor is read, cast and placed before the next.

    Args:
        model: what to call the model, in errors.
        tensors: by Hugging Face's names. A dense kernel is transposed, for PyTorch keeps (out, in) and Flax (in, out).
        shapes: from ``parameter_shapes``.
        sources: the name of the tensor of each path in ``shapes``.
        is_unused: whether a tensor may be left over.
        dtype_of: path to the dtype of that parameter.
        place: see ``Place``; what it returns becomes the parameter.

    Raises:
        UserError: a tensor is missing, left over or of the wrong shape; the message names each one.
    """
    wanted, found = set(sources.values()), set(tensors)
    missing = sorted(wanted - found)
    left_over = sorted(name for name in found - wanted if not is_unused(name))
    if missing or left_over:
        raise UserError(
            f"the {model} weights do not fit config.json (missing: {', '.join(missing) or 'none'}; "
            f"left over: {', '.join(left_over) or 'none'}): use the config.json that came with them"
        )
    parameters = {}
    for path, name in sources.items():
        stored = tensors[name]
        tensor = stored.T if path.endswith("/kernel") else stored
        if tensor.shape != shapes[path].shape:
            raise UserError(
                f"tensor {name} has shape {stored.shape}, which does not fit {path} of shape "
                f"{shapes[path].shape}: use the config.json that came with the weights"
            )
        parameters[path] = place(path, np.asarray(tensor, dtype_of(path)))
    return unflatten_dict(parameters, sep="/")
