"""Every way to convolve gives what its definition says, with its gradients; accelerators keep the compiler's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.models.convolutions import (
    CONVOLUTION,
    convolve,
    convolve_by_patches,
    convolve_by_tiles,
    fastest_way,
)
from imagen_jax.runtime.backend import computes_on_cpu, plain_implementations
from tests.tiers import thorough_except

pytestmark = pytest.mark.usefixtures("as_users_have_it")

LAYOUT = ("NHWC", "HWIO", "NHWC")


def by_definition(x, kernel, stride):
    """In float64: every output is the sum over taps and inputs."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    half = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    down, across = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    y = np.zeros((x.shape[0], down, across, kernel.shape[3]))
    for row in range(down):
        for column in range(across):
            top, left = row * stride, column * stride
            patch = padded[:, top : top + kernel.shape[0], left : left + kernel.shape[1]]
            y[:, row, column] = np.einsum("nabc,abck->nk", patch, kernel)
    return y


def example(height: int, width: int, size: int, inputs: int = 16, outputs: int = 24):
    """An input of unit variance, and a kernel that keeps it."""
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((size, size, inputs, outputs)) / size / inputs**0.5
    x = generator.standard_normal((2, height, width, inputs))
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)


CASES = {
    # Height, width, taps, stride, inputs, outputs; which way a CPU takes.
    "tiles": ((16, 18, 3, 1, 16, 24), convolve_by_tiles),
    "odd sides": ((17, 19, 3, 1, 16, 24), convolve_by_tiles),
    "few positions": ((8, 8, 3, 1, 16, 24), convolve_by_patches),
    "few inputs": ((16, 16, 3, 1, 3, 24), convolve_by_patches),
    "few outputs": ((16, 16, 3, 1, 16, 3), None),
    "stride": ((16, 16, 3, 2, 16, 24), convolve_by_patches),
    "stride, odd sides": ((17, 15, 3, 2, 16, 24), convolve_by_patches),
    "1×1": ((16, 16, 1, 1, 16, 24), convolve_by_patches),
    "5×5": ((16, 16, 5, 1, 16, 24), convolve_by_patches),
}


OF_EACH_KIND = ("odd sides", "few inputs", "few outputs", "stride, odd sides")


@pytest.fixture(params=thorough_except(OF_EACH_KIND, CASES), name="case")
def make_case(request):
    (height, width, size, stride, inputs, outputs), way = CASES[request.param]
    x, kernel = example(height, width, size, inputs, outputs)
    taken = fastest_way(x.shape, kernel.shape, stride)
    assert getattr(taken, "func", taken) is way
    return x, kernel, stride


def ours(x, kernel, stride):
    half = kernel.shape[0] // 2
    return convolve(x, kernel, (stride, stride), [(half, half)] * 2, dimension_numbers=LAYOUT)


def xlas(x, kernel, stride):
    half = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(half, half)] * 2, dimension_numbers=LAYOUT)


def test_it_is_the_definition(case):
    x, kernel, stride = case
    np.testing.assert_allclose(ours(x, kernel, stride), by_definition(x, kernel, stride), atol=1e-5)


def test_its_gradients_are_those_of_the_direct_convolution(case):
    x, kernel, stride = case
    y, pull_back = jax.vjp(lambda x, kernel: ours(x, kernel, stride), x, kernel)
    _, pull_direct = jax.vjp(lambda x, kernel: xlas(x, kernel, stride), x, kernel)
    for gradient, direct in zip(pull_back(y), pull_direct(y), strict=True):
        np.testing.assert_allclose(gradient, direct, atol=1e-5 * float(jnp.abs(direct).max()))


def test_wide_tiles_are_as_exact_as_float32_lets_them_be():
    x, kernel = example(16, 16, 3, inputs=384, outputs=16)
    exact = by_definition(x, kernel, 1)
    of_tiles, of_xla = (np.abs(np.asarray(way) - exact).max() for way in (ours(x, kernel, 1), xlas(x, kernel, 1)))
    assert of_tiles < 1e-5
    assert of_tiles < 10 * of_xla


def test_bfloat16_is_rounded_once_at_the_end():
    x, kernel = (array.astype(jnp.bfloat16) for array in example(16, 16, 3))
    y = ours(x, kernel, 1)
    assert y.dtype == jnp.bfloat16
    exact = by_definition(x, kernel, 1)
    np.testing.assert_allclose(np.asarray(y, np.float32), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("case", ["tiles", "few positions", "1×1"])
def test_the_gradient_keeps_no_patches_and_no_tiles(case):
    (height, width, size, stride, inputs, outputs), _ = CASES[case]
    x, kernel = example(height, width, size, inputs, outputs)
    _, pull_back = jax.vjp(lambda x, kernel: ours(x, kernel, stride), x, kernel)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pull_back))
    assert kept == x.size + kernel.size


@pytest.mark.parametrize(
    "options", [{"padding": [(0, 0)] * 2}, {"rhs_dilation": (2, 2)}, {"feature_group_count": 16}], ids=str
)
def test_unsupported_options_are_left_to_the_compiler(options):
    x, kernel = example(16, 16, 3, inputs=1 if "feature_group_count" in options else 16, outputs=16)
    x = jnp.broadcast_to(x, (*x.shape[:3], 16))
    arguments = {"padding": [(1, 1)] * 2, "dimension_numbers": LAYOUT} | options
    assert CONVOLUTION not in str(jax.make_jaxpr(lambda x: convolve(x, kernel, (1, 1), **arguments))(x))


def test_the_devices_of_the_mesh_decide():
    assert computes_on_cpu(), "tests run on CPUs"
    of_tpus = jax.sharding.AbstractMesh(
        (4,), ("data",), abstract_device=jax.sharding.AbstractDevice("TPU v4", num_cores=1, platform="tpu")
    )
    with jax.sharding.use_abstract_mesh(of_tpus):
        assert not computes_on_cpu()


def test_a_network_can_be_built_with_plain_implementations():
    x, kernel = example(16, 16, 3)
    with plain_implementations():
        program = str(jax.make_jaxpr(lambda x: ours(x, kernel, 1))(x))
    assert "conv_general_dilated" in program and CONVOLUTION not in program
    assert computes_on_cpu()
