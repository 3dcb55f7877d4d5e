"""FID's Inception: its parts against plain sums, the whole against recorded output of others, and bad weights."""

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.encoders import inception, inception_weights
from imagen_jax.encoders.inception_weights import WEIGHTS, convert, load_inception
from imagen_jax.errors import UserError
from imagen_jax.runtime.backend import plain_implementations
from tests.reference.inception_weights import make_images, random_tensors
from tests.reference.make_inception_reference import GOLDEN
from tests.tiers import thorough_except, thorough_rows_except


@pytest.fixture(scope="module")
def tensors():
    return random_tensors()


@pytest.fixture
def weights_file(tensors, tmp_path, monkeypatch):
    """A file of other weights; reading PyTorch's files has tests of its own."""
    file = tmp_path / "mine.pth"
    file.write_bytes(b"random")
    monkeypatch.setattr(inception_weights, "read_torch_file", lambda path: tensors)
    return file


@pytest.mark.parametrize(
    ("resize", "features"),
    thorough_rows_except(
        [("legacy_tensorflow", "features")], [("legacy_tensorflow", "features"), ("legacy_pytorch", "pytorch_fid")]
    ),
)
def test_it_equals_what_others_compute(weights_file, resize, features):
    network = load_inception(str(weights_file), resize)
    with np.load(GOLDEN) as golden:
        expected, scores = golden[features], golden["scores"]
    found = jax.jit(network.extract)(network.weights, jnp.asarray(make_images()))
    np.testing.assert_allclose(found.pooled, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert found.pooled.shape == (3, network.width)
    assert expected.std(axis=0).mean() > 0.1 * expected.mean(), "the images do differ, so this means something"
    if resize == "legacy_tensorflow":
        np.testing.assert_allclose(found.logits, scores, rtol=0, atol=1e-4 * np.abs(scores).max())


def test_a_report_can_describe_it(weights_file):
    network = load_inception(str(weights_file), "clean")
    assert network.distance == "FID" and network.name == "inception"
    assert network.key == {
        "network": "Inception-v3 of 2015-12-05",
        "features": 2048,
        "resize": "clean",
        "sha256": hashlib.sha256(b"random").hexdigest(),
    }
    prepared = network.prepare(np.zeros((40, 50, 3), np.uint8))
    assert prepared.shape == (299, 299, 3) and prepared.dtype == np.float32


def windows_of(x, row, column, size, stride):
    return x[:, row * stride : row * stride + size[0], column * stride : column * stride + size[1]]


@pytest.mark.parametrize("directly", [True, False], ids=["direct", "as on a CPU"])
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    thorough_rows_except(
        [((3, 3), 2, (0, 0)), ((1, 7), 1, (0, 3))],
        [((3, 3), 1, (1, 1)), ((3, 3), 1, (0, 0)), ((3, 3), 2, (0, 0)), ((1, 7), 1, (0, 3)), ((1, 1), 1, (0, 0))],
    ),
    ids=str,
)
def test_a_convolution_is_its_definition(size, stride, padding, directly):
    generator = np.random.default_rng(0)
    x, kernel = generator.standard_normal((2, 11, 14, 5)), generator.standard_normal((*size, 5, 6))
    padded = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    down, across = ((padded.shape[axis] - size[axis - 1]) // stride + 1 for axis in (1, 2))
    expected = np.zeros((2, down, across, 6))
    for row, column in np.ndindex(down, across):
        window = windows_of(padded, row, column, size, stride)
        expected[:, row, column] = np.einsum("nabc,abck->nk", window, kernel)
    with plain_implementations(directly):
        found = inception.convolve(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), stride, padding)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_mean_of_a_window_leaves_padding_out():
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 3))
    expected = np.zeros_like(x)
    for row, column in np.ndindex(5, 7):
        window = x[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        expected[:, row, column] = window.mean(axis=(1, 2))
    np.testing.assert_allclose(inception.mean_of_window(jnp.asarray(x, jnp.float32)), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 9), (8, 11)])
def test_the_greatest_of_a_window_in_steps_of_two(size):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    down, across = ((length - 3) // 2 + 1 for length in size)
    expected = np.zeros((2, down, across, 3))
    for row, column in np.ndindex(down, across):
        expected[:, row, column] = windows_of(x, row, column, (3, 3), 2).max(axis=(1, 2))
    np.testing.assert_array_equal(inception.greatest_of_window(jnp.asarray(x)), expected)


def test_the_greatest_of_a_padded_window_is_never_padding():
    x = -1 - np.random.default_rng(0).random((1, 8, 8, 2), np.float32)
    found = np.asarray(inception.greatest_of_window(jnp.asarray(x), stride=1, padding=1))
    assert found.shape == x.shape and found.max() < 0
    assert found[0, 0, 0, 0] == x[0, :2, :2, 0].max()


def test_the_last_block_alone_has_a_maximum(monkeypatch):
    """Averages in A, C and the first E; maxima in the stem, B, D and the last E."""
    pools = []
    for name in ("mean_of_window", "greatest_of_window"):
        pool = getattr(inception, name)
        monkeypatch.setattr(inception, name, lambda x, *a, pool=pool, **k: (pools.append(pool), pool(x, *a, **k))[1])
    jax.eval_shape(inception.InceptionV3().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
    letters = "".join({"mean_of_window": "a", "greatest_of_window": "m"}[pool.__name__] for pool in pools)
    assert letters == "mm" + "aaa" + "m" + "aaaa" + "m" + "a" + "m"


@pytest.mark.parametrize(
    "name",
    thorough_except(
        ["Mixed_6d.branch7x7dbl_3.bn.running_var"],
        ["Conv2d_1a_3x3.conv.weight", "Mixed_6d.branch7x7dbl_3.bn.running_var", "fc.weight"],
    ),
)
def test_a_missing_tensor_is_named(tensors, name):
    with pytest.raises(UserError, match=rf"{re.escape(name)}\b.*{re.escape(WEIGHTS.url)}"):
        convert({key: tensor for key, tensor in tensors.items() if key != name})


def test_a_tensor_left_over_is_named(tensors):
    with pytest.raises(UserError, match=r"AuxLogits\.fc\.weight"):
        convert({**tensors, "AuxLogits.fc.weight": np.zeros(3, np.float32)})


def test_torchvisions_thousand_classes_do_not_fit(tensors):
    with pytest.raises(UserError, match=r"fc\.weight.* \(1000, 2048\)"):
        convert({**tensors, "fc.weight": tensors["fc.weight"][:1000]})


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "mine.pth"
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"mine\.pth"):
        load_inception(str(file))


def test_an_unknown_resizing_is_refused():
    with pytest.raises(UserError, match=r"'legacy_tensorflw'.*'legacy_tensorflow'"):
        load_inception("", "legacy_tensorflw")


def test_missing_weights_give_the_address_the_checksum_and_the_flag(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGEN_JAX_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_inception()
    for part in (WEIGHTS.url, WEIGHTS.sha256, str(tmp_path / WEIGHTS.name), "--inception_weights=FILE"):
        assert part in str(caught.value)
