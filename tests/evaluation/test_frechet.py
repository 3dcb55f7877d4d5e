"""The Fréchet distance against SciPy's square root of a matrix, and against what is known in closed form."""

import numpy as np
import pytest
import scipy.linalg

from imagen_jax.errors import UserError
from imagen_jax.evaluation.frechet import Moments, frechet_distance, merge, moments_of


def draw(count, width, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((width, width))
    return (generator.standard_normal((count, width)) @ mixing + shift).astype(np.float32)


def test_it_equals_the_formula_with_scipys_square_root():
    ours, theirs = draw(500, 24, 0), draw(400, 24, 1, 0.3)
    covariances = [np.cov(one.astype(np.float64), rowvar=False) for one in (ours, theirs)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = ours.astype(np.float64).mean(0) - theirs.astype(np.float64).mean(0)
    expected = apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(moments_of(ours), moments_of(theirs)) == pytest.approx(expected, rel=1e-9)


def test_gaussians_on_common_axes_have_a_distance_in_closed_form():
    ours = Moments(11, np.array([1.0, 2.0]), 10 * np.diag([4.0, 9.0]))
    theirs = Moments(6, np.array([1.0, 5.0]), 5 * np.diag([1.0, 25.0]))
    assert frechet_distance(ours, theirs) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 5) ** 2)


def test_a_set_is_at_no_distance_from_itself_even_where_features_outnumber_pictures():
    few = moments_of(draw(20, 64, 3))
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-6 * np.trace(few.covariance))


def test_parts_in_any_order_are_the_whole():
    features = draw(100, 8, 4, 100.0)
    whole = moments_of(features)
    first, second, third = (moments_of(part) for part in (features[:7], features[7:60], features[60:]))
    for merged in (merge(merge(first, second), third), merge(third, merge(second, first))):
        assert merged.pictures == 100
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9)


def test_what_cant_be_measured_is_said():
    two = moments_of(draw(2, 3, 5))
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(two, moments_of(draw(1, 3, 6)))
    with pytest.raises(UserError, match="width 3 can't be compared with those of width 4"):
        frechet_distance(two, moments_of(draw(2, 4, 6)))
    with pytest.raises(UserError, match="1 of 2 pictures"):
        moments_of(np.array([[0.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(UserError, match="no pictures"):
        moments_of(np.zeros((0, 3)))
