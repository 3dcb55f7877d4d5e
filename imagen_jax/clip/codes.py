"""CLIP's image embeddings as sequences of whole numbers, for an autoregressive prior (Ramesh et al. 2022, section 2.2).

    image embeddings of training -> mean, principal components by falling variance -> edges of buckets for each
    an embedding -> its first components -> the bucket of each: codes -> middles of the buckets -> an embedding again
    z_i·z_t      -> its bucket: the similarity code

Of 1,024 components the paper keeps 319, which hold all but 1% of the mean squared error, with 1,024 buckets each. Two
things are not printed, so they are our choice:

- The mean is subtracted first.
- Buckets lie between the min and the max of training. With ``quantiles`` each bucket has as many training values, so
  none is wasted. With ``uniform`` all have one width. An embedding beyond the range gets the outermost bucket.

Everything is computed on the host.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from imagen_jax.clip.embedding_space import to_unit
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.array_files import ArrayFileError, opened_arrays
from imagen_jax.storage.paths import Path, write_whole

HostVectors = Float[np.ndarray, "vectors channels"]
Coefficients = Float[np.ndarray, "vectors components"]
Edges = Float[np.ndarray, "components edges"]
HostCodes = Int[np.ndarray, "vectors components"]
HostCode = Int[np.ndarray, " vectors"]

ROWS_AT_ONCE = 2**14
"""Vectors that are converted to float64 at once."""


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """The principal components of vectors, all of them, by falling variance.

    Attributes:
        mean: ``(channels,)``.
        directions: ``(channels, channels)``, one direction of unit length in each row. The entry of the greatest
            absolute value is positive, so that equal vectors give equal directions.
        variances: ``(channels,)``, the variance along each direction.
    """

    mean: Float[np.ndarray, " channels"]
    directions: Float[np.ndarray, "channels channels"]
    variances: Float[np.ndarray, " channels"]

    def project(self, vectors: HostVectors, count: int) -> Coefficients:
        """Returns the first ``count`` coefficients of vectors.

        Raises:
            UserError: ``count`` is not between 1 and the number of channels.
        """
        self.check_count(count)
        return (np.asarray(vectors, np.float32) - self.mean[None]) @ self.directions[:count].T

    def rebuild(self, coefficients: Coefficients) -> HostVectors:
        """Returns the vectors with these first coefficients; the others are 0, which is the mean of training."""
        return coefficients @ self.directions[: coefficients.shape[1]] + self.mean[None]

    def keep(self, vectors: HostVectors, count: int) -> HostVectors:
        """Returns vectors rebuilt from their first ``count`` components (figure 7 of the paper), of any length.

        Raises:
            UserError: as ``project``.
        """
        return self.rebuild(self.project(vectors, count))

    def share(self, count: int) -> float:
        """Returns the share of the variance that the first ``count`` components have, in [0, 1].

        Raises:
            UserError: as ``project``.
        """
        self.check_count(count)
        total = float(self.variances.sum(dtype=np.float64))
        return float(self.variances[:count].sum(dtype=np.float64)) / total if total else 1.0

    def check_count(self, count: int) -> None:
        """Checks a number of components.

        Raises:
            UserError: it is not between 1 and the number of channels.
        """
        if not 1 <= count <= len(self.variances):
            raise UserError(
                f"{count} components of vectors of {len(self.variances)} channels: choose 1 or more of them"
            )


def fit_components(vectors: HostVectors) -> PrincipalComponents:
    """Computes the principal components of vectors.

    Raises:
        UserError: there are fewer than two vectors, or a number is not finite.
    """
    count, channels = vectors.shape
    if count < 2:
        raise UserError(f"{count} vectors have no principal components: give more")
    pieces = [slice(start, start + ROWS_AT_ONCE) for start in range(0, count, ROWS_AT_ONCE)]
    mean = sum(vectors[rows].sum(axis=0, dtype=np.float64) for rows in pieces) / count
    covariance = np.zeros((channels, channels))
    for rows in pieces:
        centred = vectors[rows].astype(np.float64) - mean
        covariance += centred.T @ centred / count
    if not np.isfinite(covariance).all():
        raise UserError("a vector has numbers that are not finite: compute the embeddings again")
    rising, columns = np.linalg.eigh(covariance)
    directions = columns.T[::-1]
    greatest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(channels), greatest])[:, None]
    variances = np.maximum(rising[::-1], 0.0)
    return PrincipalComponents(*(array.astype(np.float32) for array in (mean, directions, variances)))


def quantile_edges(values: Coefficients, buckets: int) -> Edges:
    """Returns edges of buckets with equally many values, the min and the max included."""
    return np.quantile(values, np.linspace(0.0, 1.0, buckets + 1), axis=0).T.astype(np.float32)


def uniform_edges(values: Coefficients, buckets: int) -> Edges:
    """Returns edges of buckets of equal width from the min to the max."""
    return np.linspace(values.min(axis=0), values.max(axis=0), buckets + 1).T.astype(np.float32)


SPACINGS: dict[str, Callable[[Coefficients, int], Edges]] = {"quantiles": quantile_edges, "uniform": uniform_edges}
"""``SPACINGS[name](values, buckets)``: the edges of the buckets of each component, rising."""


def find_buckets(values: Coefficients, edges: Edges) -> HostCodes:
    """Returns the bucket of each value; a value beyond the edges is in the outermost bucket."""
    columns = [np.searchsorted(own[1:-1], column, side="right") for own, column in zip(edges, values.T, strict=True)]
    return np.stack(columns, axis=1).astype(np.int32)


def find_middles(codes: HostCodes, edges: Edges) -> Coefficients:
    """Returns the middle of each bucket."""
    components = np.arange(len(edges))[None]
    return (edges[components, codes] + edges[components, codes + 1]) / 2


def dot_products(images: HostVectors, captions: Float[np.ndarray, "vectors channels"]) -> Float[np.ndarray, " vectors"]:
    """Returns z_i·z_t of each pair."""
    return np.einsum("vc,vc->v", np.asarray(images, np.float32), np.asarray(captions, np.float32))


def to_unit_channels(vectors: HostVectors) -> HostVectors:
    """Returns vectors of length √channels in the same directions: of CLIP's embeddings only those have a meaning.

    Raises:
        UserError: a vector is zero, and so has no direction.
    """
    vectors = np.asarray(vectors, np.float32)
    if not (np.linalg.norm(vectors, axis=1) > 0).all():
        raise UserError("an embedding is zero or not finite, so it has no direction: compute the embeddings again")
    return np.asarray(to_unit(vectors))


@dataclass(frozen=True, eq=False)
class CodeBook:
    """Turns embeddings into codes and back.

    Attributes:
        components: the principal components of the image embeddings of training.
        edges: the edges of the buckets of each coded component, ``(codes, buckets + 1)``.
        similarity_edges: the edges of the buckets of z_i·z_t, ``(similarity buckets + 1,)``.
    """

    components: PrincipalComponents
    edges: Edges
    similarity_edges: Float[np.ndarray, " similarity_edges"]

    @property
    def channels(self) -> int:
        """The number of channels of the embeddings."""
        return len(self.components.mean)

    @property
    def num_codes(self) -> int:
        """The number of codes of an embedding."""
        return len(self.edges)

    @property
    def buckets(self) -> int:
        """The number of values of a code."""
        return self.edges.shape[1] - 1

    @property
    def similarity_buckets(self) -> int:
        """The number of values of a similarity code."""
        return len(self.similarity_edges) - 1

    def to_codes(self, vectors: HostVectors) -> HostCodes:
        """Returns the codes of image embeddings, each in [0, buckets)."""
        return find_buckets(self.components.project(vectors, self.num_codes), self.edges)

    def from_codes(self, codes: HostCodes) -> HostVectors:
        """Returns the image embeddings of codes: the middles of their buckets.

        Their lengths are not exactly those of the embeddings. Normalise them if only directions have a meaning.

        Raises:
            UserError: a code is out of range, or there are more or fewer than ``num_codes``.
        """
        codes = np.asarray(codes)
        if codes.shape[1] != self.num_codes or codes.min(initial=0) < 0 or codes.max(initial=0) >= self.buckets:
            raise UserError(
                f"an embedding has {self.num_codes} codes from 0 to {self.buckets - 1}, not an array {codes.shape} of "
                f"{codes.min(initial=0)} to {codes.max(initial=0)}: use the code book that the codes were made with"
            )
        return self.components.rebuild(find_middles(codes, self.edges))

    def to_similarity_codes(self, images: HostVectors, captions: Float[np.ndarray, "vectors channels"]) -> HostCode:
        """Returns the bucket of z_i·z_t for each pair. A greater product has a greater code."""
        return find_buckets(dot_products(images, captions)[:, None], self.similarity_edges[None])[:, 0]


def fit_code_book(
    images: HostVectors,
    similarities: Float[np.ndarray, " pairs"],
    num_codes: int,
    buckets: int = 1024,
    similarity_buckets: int = 1024,
    spacing: str = "quantiles",
) -> CodeBook:
    """Makes a code book from embeddings of the training split.

    Args:
        images: image embeddings.
        similarities: z_i·z_t of training pairs, see ``dot_products``.
        num_codes: number of principal components with a code.
        buckets: number of values of a code.
        similarity_buckets: number of values of the similarity code.
        spacing: a key of ``SPACINGS``.

    Raises:
        UserError: there are no more vectors than codes, a number of buckets is not positive, ``spacing`` is unknown, or
            numbers are not finite.
    """
    make_edges = lookup(SPACINGS, spacing, "codes.spacing")
    if min(buckets, similarity_buckets) < 2:
        raise UserError(f"codes with buckets={buckets} and similarity_buckets={similarity_buckets}: choose 2 or more")
    if len(images) <= num_codes:
        raise UserError(
            f"{len(images)} training images have fewer than {num_codes} principal components: set "
            "config.codes.components to fewer, or train on more images"
        )
    if not len(similarities) or not np.isfinite(similarities).all():
        raise UserError("products of image and caption embeddings are missing or not finite: compute them again")
    components = fit_components(images)
    edges = make_edges(components.project(images, num_codes), buckets)
    return CodeBook(components, edges, make_edges(similarities[:, None], similarity_buckets)[0])


NAMES = ("mean", "directions", "variances", "edges", "similarity_edges")
"""The arrays of a code book's file."""


def save_code_book(book: CodeBook, path: Path) -> None:
    """Writes a code book as one ``.npz`` file of numbers.

    Raises:
        OSError: the file can't be written.
    """
    parts, file = book.components, io.BytesIO()
    np.savez(
        file,
        mean=parts.mean,
        directions=parts.directions,
        variances=parts.variances,
        edges=book.edges,
        similarity_edges=book.similarity_edges,
    )
    write_whole(path, file.getvalue())


def load_code_book(path: Path) -> CodeBook:
    """Reads a code book.

    Raises:
        UserError: the file is missing, damaged, or no code book.
    """
    try:
        with path.open("rb") as file, opened_arrays(file) as arrays:
            mean, directions, variances, edges, similarity_edges = (arrays[name] for name in NAMES)
    except (OSError, KeyError, ArrayFileError) as error:
        raise UserError(
            f"{path} can't be read as a code book ({error}): restore it, or train the prior again"
        ) from None
    channels = len(variances) if variances.ndim == 1 else -1
    fits = mean.shape == (channels,) and directions.shape == (channels, channels) and edges.ndim == 2
    if not fits or not len(edges) <= channels or min(edges.shape[1:]) < 2 or similarity_edges.ndim != 1:
        raise UserError(f"the arrays of {path} are not those of a code book: restore it, or train the prior again")
    if any(array.dtype != np.float32 for array in (mean, directions, variances, edges, similarity_edges)):
        raise UserError(f"the arrays of {path} are not float32: restore it, or train the prior again")
    return CodeBook(PrincipalComponents(mean, directions, variances), edges, similarity_edges)
