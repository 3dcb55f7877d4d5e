"""The Fréchet distance against SciPy's square root of a matrix, and against what is known in closed form."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.frechet import (
    Gaussian,
    Moments,
    RunningMoments,
    describe_count,
    frechet_distance,
    measure_frechet_distance,
    merge,
    moments_of,
    no_moments,
)


def sample(count, width, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((width, width))
    return (generator.standard_normal((count, width)) @ mixing + shift).astype(np.float32)


def test_it_equals_the_formula_with_scipys_square_root():
    ours, theirs = sample(500, 24, 0), sample(400, 24, 1, 0.3)
    covariances = [np.cov(one.astype(np.float64), rowvar=False) for one in (ours, theirs)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = ours.astype(np.float64).mean(0) - theirs.astype(np.float64).mean(0)
    expected = apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(moments_of(ours), moments_of(theirs)) == pytest.approx(expected, rel=1e-9)


def test_gaussians_on_common_axes_have_a_distance_in_closed_form():
    ours = Moments(11, np.array([1.0, 2.0]), 10 * np.diag([4.0, 9.0]))
    theirs = Moments(6, np.array([1.0, 5.0]), 5 * np.diag([1.0, 25.0]))
    assert frechet_distance(ours, theirs) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 5) ** 2)


def test_a_set_is_at_no_distance_from_itself_even_where_features_outnumber_images():
    few = moments_of(sample(20, 64, 3))
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-6 * np.trace(few.covariance))


def test_parts_in_any_order_are_the_whole():
    features = sample(100, 8, 4, 100.0)
    whole = moments_of(features)
    first, second, third = (moments_of(part) for part in (features[:7], features[7:60], features[60:]))
    for merged in (merge(merge(first, second), third), merge(third, merge(second, first))):
        assert merged.pictures == 100
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9)


def test_unmeasurable_inputs_are_refused():
    two = moments_of(sample(2, 3, 5))
    with pytest.raises(UserError, match=r"\b2\b.*\b1\b"):
        frechet_distance(two, moments_of(sample(1, 3, 6)))
    with pytest.raises(UserError, match=r"\b3\b.*\b4\b"):
        frechet_distance(two, moments_of(sample(2, 4, 6)))
    with pytest.raises(UserError, match="1 of 2"):
        moments_of(np.array([[0.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(UserError):
        moments_of(np.zeros((0, 3)))


def test_a_large_mean_costs_no_precision():
    features = (sample(3000, 16, 7).astype(np.float64) * 0.01 + 1000.0).astype(np.float32)
    running = RunningMoments(16)
    for batch in np.split(features, range(32, 3000, 32)):
        running.add(batch)
    direct = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(running.result().covariance, direct, rtol=1e-6, atol=1e-6 * np.abs(direct).max())
    np.testing.assert_allclose(running.result().mean, features.astype(np.float64).mean(0), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_hosts_may_have_any_parts_and_be_merged_in_any_order(data):
    count = data.draw(st.integers(2, 40))
    features = sample(count, 5, data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.0, 1.0, 1e4])))
    hosts = [RunningMoments(5) for _ in range(data.draw(st.integers(1, 5)))]
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=8)))
    for batch in np.split(features, cuts):
        hosts[data.draw(st.integers(0, len(hosts) - 1))].add(batch)
    parts = data.draw(st.permutations([host.result() for host in hosts]))
    while len(parts) > 1:
        first, second, *parts = data.draw(st.permutations(parts))
        parts.append(merge(first, second))
    exact = features.astype(np.float64)
    deviations = exact - exact.mean(0)
    scatter = sum(np.outer(one, one) for one in deviations)
    assert parts[0].pictures == count
    np.testing.assert_allclose(parts[0].mean, exact.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(parts[0].scatter, scatter, rtol=1e-6, atol=1e-6 * np.trace(scatter))


def test_a_host_without_images_changes_nothing():
    some, none = moments_of(sample(9, 4, 8)), RunningMoments(4).result()
    for merged in (merge(some, none), merge(none, some)):
        for ours, expected in zip(merged, some, strict=True):
            np.testing.assert_array_equal(ours, expected)
    assert merge(none, no_moments(4)).pictures == 0
    with pytest.raises(UserError, match=r"\b2\b.*\b0\b"):
        frechet_distance(none, some)


def test_more_can_be_added_after_a_result_and_buffers_can_be_filled_again():
    features = sample(30, 8, 9)
    running, buffer = RunningMoments(8), np.empty((3, 8), np.float32)
    for start in range(0, 30, 3):
        buffer[:] = features[start : start + 3]
        running.add(buffer)
        assert running.pictures == running.result().pictures == start + 3
    np.testing.assert_allclose(running.result().scatter, moments_of(features).scatter, rtol=1e-9, atol=1e-6)


def test_a_bad_batch_is_named_and_leaves_what_was_there():
    running = RunningMoments(3)
    running.add(sample(7, 3, 10))
    bad = sample(4, 3, 11)
    bad[2, 0], bad[3, 1] = np.inf, np.nan
    with pytest.raises(UserError, match=r"2 of 4 .*\b9\b"):
        running.add(bad)
    with pytest.raises(UserError, match=r"\b4\b.*\b3\b"):
        running.add(sample(2, 4, 12))
    assert running.pictures == 7


# More features than BLOCK, so that the blocks of the triangular products meet; ranks full, lower on one side, on both.
@pytest.mark.parametrize(("ours", "theirs"), [(700, 900), (40, 900), (900, 40), (300, 200), (2, 3)])
def test_every_rank_gives_what_eigenvectors_give(ours, theirs):
    first, second = moments_of(sample(ours, 300, 13)), moments_of(sample(theirs, 300, 14, 0.1))
    roots = []
    for one in (first, second):
        # An independent way: the singular values of a product of factors, without their squares.
        values, vectors = np.linalg.eigh(one.covariance)
        rank = min(300, one.pictures - 1)
        roots.append(vectors[:, 300 - rank :] * np.sqrt(values[300 - rank :]))
    nuclear = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    apart = first.mean - second.mean
    expected = apart @ apart + np.trace(first.covariance) + np.trace(second.covariance) - 2 * nuclear
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-8)


def test_a_feature_that_never_changes_is_no_obstacle():
    ours, theirs = sample(50, 6, 15), sample(60, 6, 16)
    ours[:, 2] = theirs[:, 2] = 0.0
    kept = [0, 1, 3, 4, 5]
    expected = frechet_distance(moments_of(ours[:, kept]), moments_of(theirs[:, kept]))
    assert frechet_distance(moments_of(ours), moments_of(theirs)) == pytest.approx(expected, rel=1e-6)


def test_statistics_of_unknown_count_have_a_distance_and_a_report():
    ours, theirs = moments_of(sample(50, 6, 17)), moments_of(sample(60, 6, 18, 2.0))
    published = Gaussian(None, theirs.mean, theirs.covariance)
    measured = measure_frechet_distance(ours, published)
    assert measured.distance == frechet_distance(ours, theirs)
    assert measured.as_dict() == {
        "distance": measured.distance,
        "of_means": pytest.approx(np.sum((ours.mean - theirs.mean) ** 2)),
        "pictures": 50,
        "reference_pictures": None,
        "features": 6,
    }


def test_too_few_images_are_a_warning_with_numbers():
    (warning,) = describe_count(512, 2048)
    assert all(fact in warning for fact in ("512", "2048", "511"))
    assert describe_count(2049, 2048) == []
    assert len(describe_count(2048, 2048)) == 1
