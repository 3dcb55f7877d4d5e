"""Convolutions as the device at hand computes them fastest: one function, four ways.

    TPU, GPU                                 the compiler's own
    CPU  1×1                                 a matrix product
         3×3 on 16 px and more               Winograd's, 2.25 times fewer multiplications (Lavin & Gray 2016, section 4)
         any other with 16 outputs and more  a matrix product with each place's patch

XLA's own convolutions reach about half of that, and less in the gradient of kernels
(``tests/benchmarks/convolutions.md``). Accelerators keep theirs: their programs don't change.
"""

import operator
from collections.abc import Callable
from functools import cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from imagen_jax.runtime.backend import computes_on_cpu

Input = Float[Array, "batch height width inputs"]
Output = Float[Array, "batch new_height new_width outputs"]
Kernel = Float[Array, "taps_down taps_across inputs outputs"]
GroupKernel = Float[Array, "taps_down taps_across inputs_of_group outputs"]
Tiles = Float[Array, "batch tiles_down tiles_across channels"]
NewTiles = Float[Array, "batch tiles_down tiles_across outputs"]

CONVOLUTION = "convolution"
"""What ``jax.checkpoint`` knows the result of a convolution by that is no primitive of its own."""

MIN_CHANNELS = 16
"""With fewer outputs a matrix product is too narrow; with fewer inputs, too flat for Winograd's."""

MIN_SIDE = 16
"""Smaller feature maps have fewer tiles than it costs to transform the kernel."""

TILE = 2
"""Height and width of what Winograd's algorithm makes at a time. With 4 it would be faster still, and ten times as far
from exact."""

PLAIN_OPTIONS = ("lhs_dilation", "rhs_dilation", "feature_group_count", "batch_group_count")
"""Arguments that only the compiler's own convolution knows; 1 or None where they change nothing."""

# F(2×2, 3×3): the transforms of an input tile, of the kernel and of the result.
Transform = tuple[tuple[float, ...], ...]
OF_INPUT: Transform = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))
OF_KERNEL: Transform = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
OF_RESULT: Transform = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))


def convolve(x: Input, kernel: GroupKernel, window_strides: tuple[int, int], padding: Any, **options: Any) -> Output:
    """A convolution without bias; the arguments are those of ``jax.lax.conv_general_dilated``.

    Where the mesh that is set around it is one of CPUs, or no mesh is and JAX's default backend is the CPU, and the
    padding keeps the size and nothing is dilated or grouped, it is one of the ways above; else XLA's own.
    """
    size, stride = kernel.shape[0], window_strides[0]
    plain = all(value in (None, 1, (1, 1)) for name, value in options.items() if name in PLAIN_OPTIONS)
    same = kernel.shape[:2] == (size, size) and size % 2 and list(padding) == [(size // 2, size // 2)] * 2
    if plain and same and window_strides == (stride, stride) and computes_on_cpu():
        way = fastest_way(x.shape, kernel.shape, stride)
        if way is not None:
            dtype = jnp.promote_types(x.dtype, jnp.float32)
            y = recomputing(way.func, **way.keywords)(x.astype(dtype), kernel.astype(dtype))
            return checkpoint_name(y.astype(x.dtype), CONVOLUTION)
    return jax.lax.conv_general_dilated(x, kernel, window_strides, padding, **options)


Way = Callable[[Input, Kernel], Output]


def fastest_way(shape: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> partial[Output] | None:
    """The way a CPU is fastest in, for an input and a kernel of these shapes; None: the compiler's own.

    The number of examples does not matter: a picture is the same in any batch.
    """
    size, _, inputs, outputs = kernel
    if outputs < MIN_CHANNELS:
        return None
    if size == 3 and stride == 1 and min(shape[1:3]) >= MIN_SIDE and inputs >= MIN_CHANNELS:
        return partial(convolve_by_tiles, padding=1)
    return partial(convolve_by_patches, stride=stride)


@cache
def recomputing(function: Callable[..., Output], **options: int) -> Way:
    """A way whose gradient keeps its arguments alone: patches and tiles, several times as many, are made anew.

    It is jitted, as is its gradient, so that Python traces once what many layers of one shape have in common.
    """
    way = partial(function, **options)
    compute = jax.jit(way)
    function = jax.custom_vjp(compute)

    def forward(x: Input, kernel: Kernel) -> tuple[Output, tuple[Input, Kernel]]:
        return compute(x, kernel), (x, kernel)

    @jax.jit
    def differentiate(x: Input, kernel: Kernel, gradient: Output) -> tuple[Input, Kernel]:
        # A barrier, without which a compiler finds that patches and tiles were there before, and keeps them.
        x, kernel, gradient = jax.lax.optimization_barrier((x, kernel, gradient))
        _, pull_back = jax.vjp(way, x, kernel)
        return pull_back(gradient)

    def backward(arguments: tuple[Input, Kernel], gradient: Output) -> tuple[Input, Kernel]:
        return differentiate(*arguments, gradient)

    function.defvjp(forward, backward)
    return function


def convolve_by_patches(x: Input, kernel: Kernel, stride: int = 1) -> Output:
    """Lays the places under the kernel out as channels, and multiplies (im2col)."""
    batch, height, width, inputs = x.shape
    size, _, _, outputs = kernel.shape
    padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    down, across = -(-height // stride), -(-width // stride)

    def under(row: int, column: int) -> Input:
        return padded[
            :, row : row + stride * (down - 1) + 1 : stride, column : column + stride * (across - 1) + 1 : stride
        ]

    patches = jnp.concatenate([under(row, column) for row in range(size) for column in range(size)], axis=-1)
    product = patches.reshape(-1, size**2 * inputs) @ kernel.reshape(size**2 * inputs, outputs)
    return product.reshape(batch, down, across, outputs)


def convolve_by_tiles(x: Input, kernel: Kernel, padding: int) -> Output:
    """A 3×3 convolution by Winograd's F(2×2, 3×3): 16 matrix products for each tile of 2×2 results, instead of 36.

    Each tile of 4×4 inputs, and the kernel, become 16 numbers a channel by sums and differences; these are multiplied,
    and become 2×2 results by sums and differences. In float32 the result is as near to the exact one as a direct
    convolution's, within a factor of three or so.

    Args:
        x: the input.
        kernel: of 3×3 taps.
        padding: rows and columns of zeros on each side; the result is as large as the input with 1.
    """
    batch, height, width = x.shape[0], x.shape[1] + 2 * padding - 2, x.shape[2] + 2 * padding - 2
    down, across = -(-height // TILE), -(-width // TILE)
    # A side that is no multiple of the tile gets a row or column more, which is cut off again.
    more = padding + down * TILE - height, padding + across * TILE - width
    padded = jnp.pad(x, ((0, 0), (padding, more[0]), (padding, more[1]), (0, 0)))
    kernels = [combine(OF_KERNEL, list(row)) for row in combine(OF_KERNEL, list(kernel))]

    rows = combine(OF_INPUT, [padded[:, row : row + TILE * (down - 1) + 1 : TILE] for row in range(TILE + 2)])
    products = []
    for row, of_row in enumerate(rows):
        shifted = [of_row[:, :, column : column + TILE * (across - 1) + 1 : TILE] for column in range(TILE + 2)]
        products.append(
            [multiply(tiles, kernels[row][column]) for column, tiles in enumerate(combine(OF_INPUT, shifted))]
        )
    columns = [combine(OF_RESULT, list(column)) for column in zip(*products, strict=True)]
    results = [combine(OF_RESULT, list(row)) for row in zip(*columns, strict=True)]
    y = jnp.stack([jnp.stack(row, axis=3) for row in results], axis=2)
    return y.reshape(batch, TILE * down, TILE * across, kernel.shape[-1])[:, :height, :width]


def multiply(tiles: Tiles, kernel: Float[Array, "channels outputs"]) -> NewTiles:
    """Channels of tiles, times one of the kernel's 16 matrices.

    Written as a product of a batch of one, which is how ``models.remat`` tells it from products that are worth keeping.
    """
    flat = tiles.reshape(1, -1, tiles.shape[-1])
    return jnp.einsum("bpc,bck->bpk", flat, kernel[None]).reshape(*tiles.shape[:3], kernel.shape[-1])


def combine(matrix: Transform, arrays: list[jax.Array]) -> list[jax.Array]:
    """``matrix`` times a vector of arrays, which have one shape."""
    return [
        reduce(operator.add, [factor * array for factor, array in zip(row, arrays, strict=True) if factor])
        for row in matrix
    ]
