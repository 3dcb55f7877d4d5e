"""The metrics against torch-fidelity, pytorch-fid and clean-fid, of the same features, run here and now."""

import numpy as np
import pytest

from imagen_jax.evaluation.metrics.frechet import RunningMoments, frechet_distance, moments_of
from imagen_jax.evaluation.metrics.inception_score import inception_score
from imagen_jax.evaluation.metrics.kernel_distance import kernel_distance
from imagen_jax.evaluation.metrics.precision_recall import precision_recall
from imagen_jax.evaluation.metrics.reference_statistics import read_published_statistics, save_statistics
from tests.reference.reference_functions import clean_fid_functions, pytorch_fid_functions, torch_fidelity_functions

pytestmark = pytest.mark.references

WIDTH = 64


def draw(count, seed, shift=0.0):
    """Features like Inception's: none negative, correlated, of very different sizes."""
    mixing = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)) * np.exp(-np.arange(WIDTH) / 12)
    noise = np.random.default_rng(seed).standard_normal((count, WIDTH))
    return np.maximum(0.4 + 0.1 * noise @ mixing.T + shift, 0.0).astype(np.float32)


@pytest.fixture(scope="module")
def features():
    return draw(1500, 1), draw(1300, 2, 0.05)


@pytest.fixture(scope="module")
def statistics(features):
    """As those libraries compute them: in float64, for float32 costs them digits."""
    return [(one.mean(0), np.cov(one, rowvar=False)) for one in (half.astype(np.float64) for half in features)]


def tensors(features, dtype):
    import torch

    return [torch.from_numpy(one.astype(dtype)) for one in features]


@pytest.mark.parametrize("batch", [32, 500])
def test_the_frechet_distance_is_that_of_three_libraries(features, statistics, batch):
    both = []
    for one in features:
        running = RunningMoments(WIDTH)
        for start in range(0, len(one), batch):
            running.add(one[start : start + batch])
        both.append(running.result())
    ours = frechet_distance(*both)
    (mean, covariance), (reference_mean, reference_covariance) = statistics
    assert ours > 0.1
    arguments = (mean, covariance, reference_mean, reference_covariance)
    assert ours == pytest.approx(pytorch_fid_functions().calculate_frechet_distance(*arguments), rel=1e-6)
    assert ours == pytest.approx(clean_fid_functions().frechet_distance(*arguments), rel=1e-6)
    fidelity = torch_fidelity_functions("metric_fid")
    stated = [fidelity.fid_features_to_statistics(one) for one in tensors(features, np.float64)]
    theirs = fidelity.fid_statistics_to_metric(*stated, verbose=False)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_more_features_than_images(features):
    few = [one[:40] for one in features]
    fidelity = torch_fidelity_functions("metric_fid")
    stated = [fidelity.fid_features_to_statistics(one) for one in tensors(few, np.float64)]
    theirs = fidelity.fid_statistics_to_metric(*stated, verbose=False)
    ours = frechet_distance(*(moments_of(one) for one in few))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


def test_pytorch_fid_reads_our_files_and_we_read_its_own(features, statistics, tmp_path):
    save_statistics(tmp_path / "ours.npz", moments_of(features[0]), {"network": "none"})
    functions = pytorch_fid_functions()
    mean, covariance = functions.compute_statistics_of_path(str(tmp_path / "ours.npz"), None, 50, WIDTH, "cpu")
    np.testing.assert_allclose(mean, statistics[0][0], rtol=1e-12)
    np.testing.assert_allclose(covariance, statistics[0][1], rtol=1e-9, atol=1e-12)
    np.savez(tmp_path / "theirs.npz", mu=statistics[1][0], sigma=statistics[1][1])  # as its --save-stats does
    published = read_published_statistics(tmp_path / "theirs.npz")
    expected = functions.calculate_frechet_distance(mean, covariance, *statistics[1])
    assert frechet_distance(moments_of(features[0]), published) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("dtype", "relative"), [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_the_kernel_distance_is_torch_fidelitys_of_the_same_subsets(features, dtype, relative):
    fidelity = torch_fidelity_functions("metric_kid")
    theirs = fidelity.kid_features_to_metric(
        *tensors(features, dtype), kid_subsets=20, kid_subset_size=400, verbose=False
    )
    ours = kernel_distance(*features, subsets=20, subset_size=400)
    assert ours.distance == pytest.approx(theirs["kernel_inception_distance_mean"], rel=relative)
    assert ours.standard_deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=relative)


def test_the_kernel_distance_is_clean_fids_of_all_images(features):
    alike = [one[:600].astype(np.float64) for one in features]
    theirs = clean_fid_functions().kernel_distance(*alike, num_subsets=1)
    assert kernel_distance(*alike).distance == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("images", [1000, 1003])
def test_the_inception_score_is_torch_fidelitys(images):
    logits = 3.0 * np.random.default_rng(3).standard_normal((images, 1008)).astype(np.float32)
    theirs = torch_fidelity_functions("metric_isc").isc_features_to_metric(*tensors([logits], np.float32))
    ours = inception_score(logits)
    assert ours.score > 5.0
    assert ours.score == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert ours.standard_deviation == pytest.approx(theirs["inception_score_std"], rel=1e-9)


@pytest.mark.parametrize("save_cpu_ram", [False, True])
def test_precision_and_recall_are_torch_fidelitys(features, save_cpu_ram):
    theirs = torch_fidelity_functions("metric_prc").prc_features_to_metric(
        *tensors(features, np.float64), save_cpu_ram=save_cpu_ram, prc_batch_size=700, verbose=False
    )
    ours = precision_recall(*features, block_bytes=2**20)
    assert 0.1 < ours.precision < 0.95
    assert 0.1 < ours.recall < 0.95
    # It averages in float32.
    assert ours.precision == pytest.approx(theirs["precision"], rel=1e-6)
    assert ours.recall == pytest.approx(theirs["recall"], rel=1e-6)
