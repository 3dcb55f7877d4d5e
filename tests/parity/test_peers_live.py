"""The benchmark next to other libraries, at a size that says nothing of speed: that the work is the same."""

import jax
import pytest

from tests.benchmarks.peers_work import TINY, read_facts, write_work

pytestmark = pytest.mark.references


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What diffusers' side writes, and ours imports."""
    from tests.benchmarks import peers_ours, peers_torch

    folder = tmp_path_factory.mktemp("peers")
    write_work(folder, TINY)
    peers_torch.prepare_diffusers(folder, TINY)
    with jax.default_matmul_precision("highest"):
        peers_ours.prepare(folder, "deepfloyd_unet", TINY)
    return folder


def test_both_have_one_network(folder):
    facts = read_facts(folder)
    theirs, ours = facts["diffusers"], facts["deepfloyd_unet"]
    assert ours["parameters"] == theirs["parameters"]
    assert ours["difference"] < 1e-4
    # They count the taps that fall on the padding too, of which there are many on few places.
    assert 0.85 < ours["operations"] / theirs["operations"] <= 1.0


@pytest.mark.thorough
def test_both_learn_the_same_batch_and_sample(folder):
    from tests.benchmarks import peers_ours, peers_torch

    for step in (peers_torch.train_diffusers(folder, TINY), peers_ours.train(folder, "deepfloyd_unet", TINY)):
        assert all(0.01 < step() < 100 for _ in range(3))
    images = peers_torch.sample_diffusers(folder, TINY)().images
    (ours,) = peers_ours.sample(folder, "deepfloyd_unet", TINY)()
    assert ours.shape == images.shape == (TINY.pictures, TINY.resolution, TINY.resolution, 3)
