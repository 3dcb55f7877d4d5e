"""Image embeddings as codes: the components are NumPy's, and a round trip is off by half a bucket at most."""

import numpy as np
import pytest

from imagen_jax.clip import codes
from imagen_jax.clip.codes import dot_products, fit_code_book, fit_components, load_code_book, save_code_book
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import to_path

COUNT, CHANNELS = 300, 12


@pytest.fixture(scope="module")
def vectors():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(CHANNELS, CHANNELS)) * 0.7 ** np.arange(CHANNELS)[:, None]
    return (generator.normal(size=(COUNT, CHANNELS)) @ mixing + 3.0).astype(np.float32)


@pytest.fixture(scope="module")
def captions(vectors):
    return vectors + np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32)


def make_book(vectors, captions, spacing="quantiles", num_codes=7):
    return fit_code_book(vectors, dot_products(vectors, captions), num_codes, 32, 16, spacing)


def test_components_are_those_of_the_singular_values(vectors, monkeypatch):
    monkeypatch.setattr(codes, "ROWS_AT_ONCE", 128)
    found = fit_components(vectors.astype(np.float16))
    exact = vectors.astype(np.float16).astype(np.float64)
    _, values, rows = np.linalg.svd(exact - exact.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.variances, values**2 / COUNT, rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(found.directions * rows, axis=1)), 1.0, atol=1e-5)
    assert (np.diff(found.variances) <= 0).all() and (found.directions.max(1) >= -found.directions.min(1)).all()
    assert found.share(4) == pytest.approx((values[:4] ** 2).sum() / (values**2).sum(), rel=1e-5)


def test_the_error_of_keeping_some_components_is_the_rest_of_the_variance(vectors):
    found = fit_components(vectors)
    for count in (1, 5, CHANNELS):
        error = np.square(found.keep(vectors, count) - vectors).sum(1).mean()
        assert error == pytest.approx(found.variances[count:].sum(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("spacing", codes.SPACINGS)
def test_a_round_trip_is_off_by_half_a_bucket_at_most(vectors, captions, spacing):
    book = make_book(vectors, captions, spacing)
    found = book.to_codes(vectors)
    assert found.shape == (COUNT, 7) and found.min() == 0 and found.max() == 31 and found.dtype == np.int32
    before, after = (book.components.project(each, 7) for each in (vectors, book.from_codes(found)))
    widths = np.diff(book.edges)[np.arange(7)[None], found]
    assert (np.abs(before - after) <= widths / 2 + 1e-4).all()
    # Buckets are found again from their middles.
    np.testing.assert_array_equal(book.to_codes(book.from_codes(found)), found)


def test_quantiles_waste_no_bucket_and_uniform_ones_have_one_width(vectors, captions):
    counts = [np.bincount(column, minlength=32) for column in make_book(vectors, captions).to_codes(vectors).T]
    assert min(map(np.min, counts)) >= COUNT // 32 - 1 and max(map(np.max, counts)) <= COUNT // 32 + 2
    widths = np.diff(make_book(vectors, captions, "uniform").edges)
    np.testing.assert_allclose(widths, np.repeat(widths[:, :1], 32, axis=1), rtol=1e-3)


def test_similarity_codes_rise_with_the_product(vectors, captions):
    book = make_book(vectors, captions)
    products = np.array([image @ caption for image, caption in zip(vectors, captions, strict=True)])
    found = book.to_similarity_codes(vectors, captions)
    assert (np.diff(found[np.argsort(products)]) >= 0).all() and set(found.tolist()) == set(range(16))
    # What lies beyond the training's range is in the outermost buckets.
    assert book.to_similarity_codes(10 * vectors, captions).max() == 15
    assert book.to_codes(100 * vectors).max() == 31


def test_a_file_gives_back_the_book(vectors, captions, tmp_path):
    book = make_book(vectors, captions)
    path = to_path(tmp_path / "codes.npz")
    save_code_book(book, path)
    again = load_code_book(path)
    np.testing.assert_array_equal(again.to_codes(vectors), book.to_codes(vectors))
    np.testing.assert_array_equal(again.from_codes(book.to_codes(vectors)), book.from_codes(book.to_codes(vectors)))
    assert (again.num_codes, again.buckets, again.similarity_buckets, again.channels) == (7, 32, 16, CHANNELS)
    content = path.read_bytes()
    for damaged in (content[:100], b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            load_code_book(path)
    np.savez(tmp_path / "other.npz", **{name: np.zeros((2, 3), np.float32) for name in codes.NAMES})
    with pytest.raises(UserError):
        load_code_book(to_path(tmp_path / "other.npz"))


def test_what_has_no_codes_is_refused(vectors, captions):
    products = dot_products(vectors, captions)
    for arguments in (
        (vectors[:5], products, 7),
        (vectors, products, 7, 1),
        (vectors, products, 7, 8, 8, "logarithmic"),
        (vectors, products[:0], 7),
        (np.full_like(vectors, np.nan), products, 7),
        (vectors, products, CHANNELS + 1),
    ):
        with pytest.raises(UserError):
            fit_code_book(*arguments)
    book = make_book(vectors, captions)
    for wrong in (np.full((1, 7), 32), np.full((1, 7), -1), np.zeros((1, 6), int)):
        with pytest.raises(UserError):
            book.from_codes(wrong)
