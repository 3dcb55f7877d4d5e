"""FID's Inception and the three ways to resize against pytorch-fid, torch-fidelity and clean-fid, run here and now.

All three are installed with ``--no-deps``; see ``tests/reference/make_inception_reference.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.encoders.inception_weights import load_inception
from imagen_jax.encoders.resizing import RESIZES
from tests.reference.inception_weights import make_images, random_tensors
from tests.tiers import thorough_except

pytestmark = pytest.mark.usefixtures("as_users_have_it")

SHAPES = [(64, 64), (256, 256), (480, 640), (299, 299)]


@pytest.fixture
def weights_file(tmp_path):
    """In the layout of the published file, which is older than PyTorch 1.6."""
    from tests.reference.make_inception_reference import write_state

    file = tmp_path / "inception.pth"
    write_state(file, random_tensors())
    return file


def ours(file, resize, images):
    network = load_inception(str(file), resize)
    prepared = np.stack([network.prepare(image) for image in images])
    return jax.jit(network.extract)(network.weights, jnp.asarray(prepared))


@pytest.mark.references
def test_features_and_scores_equal_torch_fidelity_and_pytorch_fid(weights_file):
    from tests.reference.make_inception_reference import compute_reference

    images = make_images(256, 200)
    theirs = compute_reference(weights_file, images)
    found = ours(weights_file, "legacy_tensorflow", images)
    others = ours(weights_file, "legacy_pytorch", images)
    for mine, expected in (
        (found.pooled, theirs["features"]),
        (found.logits, theirs["scores"]),
        (others.pooled, theirs["pytorch_fid"]),
    ):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


@pytest.mark.references
@pytest.mark.thorough
def test_features_of_clean_images_equal_those_of_clean_fid(weights_file):
    """Its own resize and scale, and a network that changes neither."""
    import torch
    from cleanfid.resize import build_resizer

    from tests.reference.make_inception_reference import load_pytorch_fid, to_torch

    images = make_images(300, 420)
    resized = np.stack([build_resizer("clean")(image) for image in images])
    network = load_pytorch_fid(weights_file, resize_input=False, normalize_input=False)
    with torch.inference_mode():
        expected = network(to_torch((resized - 128) / 128))[0].numpy()[:, :, 0, 0]
    found = ours(weights_file, "clean", images).pooled
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


@pytest.mark.thorough
@pytest.mark.references
def test_it_is_as_exact_as_torch(tmp_path):
    """Of images that need no resize, and of a file as PyTorch writes it today; float64 is exact."""
    import torch

    from tests.reference.make_inception_reference import load_torch_fidelity, to_torch, write_state

    file = tmp_path / "inception.pth"
    write_state(file, random_tensors(), legacy=False)
    images = make_images(299, 299)
    network = load_torch_fidelity(file)
    with torch.inference_mode():
        single = network(to_torch(images))[0].numpy()
        network.feature_extractor_internal_dtype = torch.float64
        network.double()
        exact = network(to_torch(images))[0].numpy()
    found = np.asarray(ours(file, "legacy_tensorflow", images).pooled)
    differences = np.linalg.norm(exact - exact.mean(axis=0))
    error, theirs = (np.linalg.norm(each - exact) / differences for each in (found, single))
    assert error < 2 * theirs and error < 3e-4


def finished(name, image, size=299):
    way = RESIZES[name]
    return np.asarray(jax.jit(way.finish, static_argnums=1)(jnp.asarray(way.prepare(image, size))[None], size))[0]


@pytest.mark.references
@pytest.mark.parametrize("shape", thorough_except(SHAPES[::2], SHAPES), ids=str)
def test_the_clean_way_is_clean_fids(shape):
    from cleanfid.resize import build_resizer

    (image,) = make_images(*shape, count=1)
    np.testing.assert_array_equal(RESIZES["clean"].prepare(image, 299), build_resizer("clean")(image))


@pytest.mark.references
@pytest.mark.parametrize("shape", thorough_except(SHAPES[::2], SHAPES), ids=str)
def test_tensorflows_way_is_torch_fidelitys(shape):
    from tests.reference.make_inception_reference import modules_replaced, to_torch, without_running

    with modules_replaced({"torch_fidelity": without_running("torch_fidelity")}):
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

    images = make_images(*shape, count=1)
    theirs = resize(to_torch(images).float(), size=(299, 299), align_corners=False)
    expected = (theirs[0].permute(1, 2, 0).numpy() - 128) / 128
    np.testing.assert_allclose(finished("legacy_tensorflow", images[0]), expected, rtol=0, atol=1e-6)


@pytest.mark.references
@pytest.mark.parametrize("shape", thorough_except(SHAPES[::2], SHAPES), ids=str)
def test_pytorchs_way_is_pytorchs_and_clean_fids(shape):
    import torch
    from cleanfid.resize import make_resizer

    from tests.reference.make_inception_reference import to_torch

    images = make_images(*shape, count=1)
    resize = torch.nn.functional.interpolate
    theirs = resize(to_torch(images).float() / 255, size=(299, 299), mode="bilinear", align_corners=False)
    found = finished("legacy_pytorch", images[0])
    np.testing.assert_allclose(found, 2 * theirs[0].permute(1, 2, 0).numpy() - 1, rtol=0, atol=5e-5)
    others = make_resizer("PyTorch", False, "bilinear", (299, 299))(images[0])
    np.testing.assert_allclose(found, others / 127.5 - 1, rtol=0, atol=5e-5)
