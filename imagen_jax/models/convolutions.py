"""Convolutions in the fastest way for the device: one function, four algorithms.

    TPU, GPU                                 XLA's own
    CPU  1×1                                 a matrix product
         3×3 on 16 px and more               Winograd's, 2.25 times fewer multiplications (Lavin & Gray 2016, section 4)
         any other with 16 outputs and more  a matrix product with the patch around each pixel (im2col)

On a CPU, XLA's own convolutions are about half as fast, and slower still in the gradient of kernels
(``tests/benchmarks/convolutions.md``). On accelerators, this module does not change the programs.
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
"""The ``checkpoint_name`` of the result of each convolution that is not XLA's primitive; ``models.remat`` uses it."""

MIN_CHANNELS = 16
"""With fewer outputs a matrix product is too narrow. With fewer inputs it is too flat for Winograd's algorithm."""

MIN_SIDE = 16
"""Smaller feature maps have too few tiles to pay for the transform of the kernel."""

TILE = 2
"""The height and width of the outputs that Winograd's algorithm computes per tile. A size of 4 would be faster, but its
errors are ten times as large."""

PLAIN_OPTIONS = ("lhs_dilation", "rhs_dilation", "feature_group_count", "batch_group_count")
"""Arguments that only XLA's own convolution supports. The values 1 and None have no effect."""

# F(2×2, 3×3): the transforms of an input tile, of the kernel and of the result.
Transform = tuple[tuple[float, ...], ...]
OF_INPUT: Transform = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))
OF_KERNEL: Transform = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
OF_RESULT: Transform = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))


def convolve(x: Input, kernel: GroupKernel, window_strides: tuple[int, int], padding: Any, **options: Any) -> Output:
    """Computes a convolution without bias. The arguments are those of ``jax.lax.conv_general_dilated``.

    It uses an algorithm above if three conditions hold: the program runs on CPUs, the padding keeps the size (before
    the stride), and nothing is dilated or grouped. Otherwise it uses XLA's own. The program runs on CPUs if the current
    mesh consists of CPUs, or if there is no mesh and JAX's default backend is the CPU.
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
    """Returns the fastest algorithm on a CPU for an input and a kernel of these shapes; None for XLA's own.

    The choice does not depend on the batch size, so that an image gives the same result in any batch.
    """
    size, _, inputs, outputs = kernel
    if outputs < MIN_CHANNELS:
        return None
    if size == 3 and stride == 1 and min(shape[1:3]) >= MIN_SIDE and inputs >= MIN_CHANNELS:
        return partial(convolve_by_tiles, padding=1)
    return partial(convolve_by_patches, stride=stride)


@cache
def recomputing(function: Callable[..., Output], **options: int) -> Way:
    """Returns an algorithm whose gradient stores only the arguments, and recomputes the larger patches or tiles.

    It is jitted, as is its gradient, so that Python traces layers of equal shapes only once.
    """
    way = partial(function, **options)
    compute = jax.jit(way)
    function = jax.custom_vjp(compute)

    def forward(x: Input, kernel: Kernel) -> tuple[Output, tuple[Input, Kernel]]:
        return compute(x, kernel), (x, kernel)

    @jax.jit
    def differentiate(x: Input, kernel: Kernel, gradient: Output) -> tuple[Input, Kernel]:
        # Without the barrier, the compiler would reuse the patches and tiles of the forward pass, and so store them.
        x, kernel, gradient = jax.lax.optimization_barrier((x, kernel, gradient))
        _, pull_back = jax.vjp(way, x, kernel)
        return pull_back(gradient)

    def backward(arguments: tuple[Input, Kernel], gradient: Output) -> tuple[Input, Kernel]:
        return differentiate(*arguments, gradient)

    function.defvjp(forward, backward)
    return function


def convolve_by_patches(x: Input, kernel: Kernel, stride: int = 1) -> Output:
    """Convolves by a matrix product, after it lays the pixels under the kernel out as channels (im2col)."""
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
    """Computes a 3×3 convolution by Winograd's F(2×2, 3×3): 16 multiplications per tile of 2×2 outputs instead of 36.

    Sums and differences turn each tile of 4×4 inputs, and the kernel, into 16 numbers per channel. These are
    multiplied. Sums and differences of the products are the 2×2 outputs. In float32 the error is at most about three
    times that of a direct convolution.

    Args:
        x: the input.
        kernel: the kernel, of 3×3 taps.
        padding: rows and columns of zeros on each side. With 1, the output has the size of the input.
    """
    batch, height, width = x.shape[0], x.shape[1] + 2 * padding - 2, x.shape[2] + 2 * padding - 2
    down, across = -(-height // TILE), -(-width // TILE)
    # A side that is not a multiple of the tile gets one more row or column, which is removed at the end.
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
    """Multiplies the channels of tiles by one of the kernel's 16 matrices.

    The product has a batch axis of size one. This is how ``models.remat`` distinguishes it from products worth storing.
    """
    flat = tiles.reshape(1, -1, tiles.shape[-1])
    return jnp.einsum("bpc,bck->bpk", flat, kernel[None]).reshape(*tiles.shape[:3], kernel.shape[-1])


def combine(matrix: Transform, arrays: list[jax.Array]) -> list[jax.Array]:
    """Returns ``matrix`` times a vector of arrays of equal shape."""
    return [
        reduce(operator.add, [factor * array for factor, array in zip(row, arrays, strict=True) if factor])
        for row in matrix
    ]
