"""Counts the floating-point operations of a function, from its jaxpr and from XLA's report on the compiled program.

The count from the jaxpr covers matrix products and convolutions, with two operations for each multiply-add:

    product        2 · (elements of the result) · (terms of each sum)                               (1)
    convolution    2 · (batch · output channels · input channels of a group) · Π_axes pairs         (2)

Here ``pairs`` is the number of pairs of an output position and a kernel tap that meet a pixel. Pairs that meet padding,
or a hole between dilated pixels, do not count. XLA leaves those out as well, and adds elementwise operations. Both
numbers are for direct convolutions, although a CPU may use a cheaper algorithm (``models.convolutions``).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from imagen_jax.errors import UserError
from imagen_jax.runtime.backend import plain_implementations


def count_operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Counts the operations of ``function(*arguments)`` by equations (1) and (2); arguments may be shapes.

    Raises:
        ValueError: the function has a matrix product or a convolution inside a loop of unknown length.
    """
    with plain_implementations():
        return count_in(jax.make_jaxpr(copy_function(function))(*arguments).jaxpr)


def compiled_operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the operations that XLA reports for ``function(*arguments)``, compiled for this machine.

    Nothing is run, and arguments may be shapes. A loop's body counts once, whatever its number of iterations.

    Raises:
        UserError: the compiler of this accelerator reports no operations.
    """
    with plain_implementations():
        costs = jax.jit(copy_function(function)).lower(*arguments).compile().cost_analysis() or {}
    if "flops" not in costs:
        raise UserError(
            f"XLA reports no operations on {jax.default_backend()}: set JAX_PLATFORMS=cpu in the environment"
        )
    return round(costs["flops"])


def copy_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a new function with the same behaviour, so that JAX reuses no trace cached for the original."""
    return lambda *arguments: function(*arguments)


def count_in(jaxpr: Jaxpr) -> int:
    """Counts the operations of a jaxpr, including the jaxprs inside it."""
    return sum(count_of_equation(equation) for equation in jaxpr.eqns)


def count_of_equation(equation: JaxprEqn) -> int:
    """Counts the operations of one equation: all iterations of a scan, and the costliest branch of a ``cond``.

    Raises:
        ValueError: the equation is a ``while`` loop with a matrix product or a convolution inside.
    """
    name = equation.primitive.name
    if name in COUNTS:
        return COUNTS[name](equation)
    inside = [count_in(jaxpr) for jaxpr in find_jaxprs(equation.params.values())]
    if name == "cond":
        return max(inside)
    if name == "while" and any(inside):
        raise ValueError("operations in a loop of unknown length can't be counted: write it as a scan")
    return sum(inside) * (equation.params["length"] if name == "scan" else 1)


def find_jaxprs(values: Iterable[Any]) -> Iterator[Jaxpr]:
    """Yields the jaxprs among an equation's parameters, such as the body of a scan."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from find_jaxprs(value)


def shape_of(variable: Any) -> tuple[int, ...]:
    """Returns the shape of an equation's input or output."""
    return variable.aval.shape


def count_of_product(equation: JaxprEqn) -> int:
    """Counts the operations of a matrix product, by equation (1)."""
    (summed, _), _ = equation.params["dimension_numbers"]
    shape = shape_of(equation.invars[0])
    return 2 * math.prod(shape_of(equation.outvars[0])) * math.prod(shape[axis] for axis in summed)


def count_of_convolution(equation: JaxprEqn) -> int:
    """Counts the operations of a convolution, by equation (2)."""
    params = equation.params
    image, kernel = map(shape_of, equation.invars)
    result = shape_of(equation.outvars[0])
    axes = params["dimension_numbers"]
    # The first two named axes of an image are batch and channels, those of a kernel output and input channels.
    operations = 2 * result[axes.out_spec[0]] * result[axes.out_spec[1]] * kernel[axes.rhs_spec[1]]
    for number, (before, _) in enumerate(params["padding"]):
        operations *= count_pairs(
            image[axes.lhs_spec[2 + number]],
            kernel[axes.rhs_spec[2 + number]],
            result[axes.out_spec[2 + number]],
            before,
            params["window_strides"][number],
            params["lhs_dilation"][number],
            params["rhs_dilation"][number],
        )
    return operations


def count_pairs(
    pixels: int, taps: int, outputs: int, before: int, stride: int = 1, dilation: int = 1, tap_dilation: int = 1
) -> int:
    """Counts the pairs of an output position and a kernel tap that meet a pixel, along one axis.

    Args:
        pixels: length of the input.
        taps: length of the kernel.
        outputs: length of the output.
        before: padding before the first pixel.
        stride: distance from one output position to the next.
        dilation: distance from one pixel to the next; the positions between them are holes.
        tap_dilation: distance from one tap to the next.
    """
    positions = np.arange(outputs)[:, None] * stride + np.arange(taps)[None, :] * tap_dilation - before
    hits = (positions >= 0) & (positions <= (pixels - 1) * dilation) & (positions % dilation == 0)
    return int(hits.sum())


COUNTS: dict[str, Callable[[JaxprEqn], int]] = {
    "dot_general": count_of_product,
    "conv_general_dilated": count_of_convolution,
}
