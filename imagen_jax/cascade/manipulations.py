r"""Manipulates a picture through what a decoder makes it from: CLIP's embedding z_i and the noise x_T.

    picture -> (z_i, x_T)  (``encode``) -> a row of requests that change one of the two -> ``Cascade.draw`` -> pictures

Ramesh et al. 2022, sections 3 and 4. z_i says what the picture shows, and x_T, found by DDIM inversion under z_i, all
the rest: DDIM without noise makes the same picture of both.

    variations       the same z_i, and DDIM with noise (η > 0) from x_T, or noise of the seed instead of x_T
    interpolation    slerp(z_i, z_i', θ), θ from 0 to 1; x_T slerped too, or one noise for all
    text difference  slerp(z_i, z_d, θ), z_d = norm(z_t - z_t0), θ from 0 to at most 0.5; x_T stays             (1)
    components       z_i rebuilt from its first principal components (figure 7); x_T stays

slerp is ``sampling.edits.interpolate``. The paper gives θ of text differences a maximum between 0.25 and 0.50.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.edits import Edit, ImageInput, pixels_of
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.stage import Stage
from imagen_jax.clip.codes import PrincipalComponents
from imagen_jax.clip.embedding_space import EmbeddingSpace
from imagen_jax.data.pixels import crop_centre_square
from imagen_jax.encoders.encoder import vectors_reader
from imagen_jax.encoders.feature_networks import extract_features
from imagen_jax.encoders.image_vectors import name_of
from imagen_jax.encoders.pretrained_clip import Clip
from imagen_jax.errors import UserError
from imagen_jax.sampling.edits import interpolate

Vector = Float[np.ndarray, " embedding"]

MAX_DIFFERENCE = 0.5
"""The largest θ of equation (1) in the paper."""


class Latents(NamedTuple):
    """What a decoder makes a picture from.

    Attributes:
        vector: z_i as the decoder is told it, ``(d,)``.
        noise: x_T, ``(height, width, channels)``.
    """

    vector: Any
    noise: Any


def decoder_of(cascade: Cascade) -> Stage:
    """Returns the decoder, which must be the first stage.

    Raises:
        UserError: the first stage is no decoder.
    """
    stage = cascade.stages[0]
    if stage.makes_vectors or not stage.image_vector:
        raise UserError(
            f"a picture is manipulated from the decoder on, and {cascade.names[0]} is none: list the decoder first in "
            "--stages, without the prior"
        )
    return stage


def embed_picture(cascade: Cascade, clip: Clip, picture: ImageInput) -> Vector:
    """Returns z_i of a picture's centre square, as the decoder is told it.

    Raises:
        UserError: the picture can't be read, the first stage is no decoder, or it was trained with another CLIP.
    """
    stage = decoder_of(cascade)
    trained_with = cascade.trained[0].config.fingerprints.get("image_encoder")
    if trained_with not in (None, name_of(clip, stage.space)):
        raise UserError(
            f"{cascade.names[0]} was trained with the embeddings of {trained_with}, not with those of "
            f"{name_of(clip, stage.space)}: give the CLIP with the same weights"
        )
    square = crop_centre_square(pixels_of(picture))
    embedding = extract_features(clip.image, [square], show=False).pooled
    return np.asarray(stage.space.to_vectors(embedding), np.float32)[0]


def encode(cascade: Cascade, clip: Clip, picture: ImageInput, caption: str = "") -> Latents:
    """Encodes the centre square of a picture as (z_i, x_T): by CLIP, and by DDIM inversion under z_i, unguided.

    Guidance would change the picture: Dhariwal & Nichol 2021 (appendix F) invert without it too.

    Args:
        cascade: a cascade whose first stage is the decoder.
        clip: the CLIP that the decoder was trained with.
        picture: a path, a Pillow image, or a uint8 array.
        caption: a caption of the picture; "" for none.

    Raises:
        UserError: as ``embed_picture``.
    """
    vector = embed_picture(cascade, clip, picture)
    request = ImageRequest(caption, vector=vector)
    noise = unguided(cascade).invert(request, Edit(image=pixels_of(picture), invert=caption))
    return Latents(vector, noise)


def unguided(cascade: Cascade) -> Cascade:
    """Returns the cascade whose decoder reconstructs a picture: DDIM without noise, guidance and thresholds."""
    return with_decoder(cascade, sampler="ddim", eta=0.0, guidance=1.0, thresholding="none")


def with_decoder(cascade: Cascade, **settings: Any) -> Cascade:
    """Returns the cascade with other sampling settings of its decoder alone."""
    values = [dict(one.config.sampling.to_dict()) for one in cascade.trained]
    for name, value in cascade.overrides.items():
        for number, of_stage in enumerate(values):
            of_stage[name] = value[number % len(value)] if isinstance(value, list) else value
    lists = {name: [value, *(each[name] for each in values[1:])] for name, value in settings.items()}
    return cascade.adjusted(**lists)


def reconstruct(cascade: Cascade, latents: Latents, caption: str = "") -> Float[np.ndarray, "height width 3"]:
    """Returns the decoder's picture of latents, in [-1, 1]: the encoded picture but for rounding."""
    request = ImageRequest(caption, vector=latents.vector, start=latents.noise)
    (stages,) = unguided(cascade).draw([request])
    return np.asarray(stages[0][0])


def signal_to_noise(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of two images in [-1, 1], in dB; infinity if they are equal."""
    error = float(np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2))
    return float("inf") if error == 0.0 else 10.0 * float(np.log10(4.0 / error))


def make_variations(latents: Latents, count: int, caption: str = "", fresh_noise: bool = False) -> list[ImageRequest]:
    """Returns requests of variations of a picture.

    With η > 0 (``with_decoder(cascade, sampler="ddim", eta=…)``) they begin at x_T, as in the paper; with
    ``fresh_noise`` each begins at a noise of its own, as in other programs.
    """
    start = None if fresh_noise else latents.noise
    return [ImageRequest(caption, index, vector=latents.vector, start=start) for index in range(count)]


def make_interpolation(
    first: Latents, second: Latents, shares: Sequence[float], caption: str = "", one_noise: bool = False
) -> list[ImageRequest]:
    """Returns requests on the way between two pictures.

    Args:
        first: the latents at share 0.
        second: the latents at share 1.
        shares: places of the way, in [0, 1].
        caption: a caption of all pictures; "" for none.
        one_noise: whether all start from the noise of the seed. Otherwise x_T is interpolated too, and the ends are the
            pictures themselves.
    """
    vectors = slerp(first.vector, second.vector, shares)
    noises = [None] * len(shares) if one_noise else list(slerp(first.noise, second.noise, shares))
    return [ImageRequest(caption, vector=vector, start=noise) for vector, noise in zip(vectors, noises, strict=True)]


def make_text_difference(
    latents: Latents, difference: Vector, shares: Sequence[float], caption: str = ""
) -> list[ImageRequest]:
    """Returns requests on the way from a picture towards a difference of captions. Equation (1).

    Args:
        latents: the picture.
        difference: the result of ``text_difference``.
        shares: values of θ, from 0 to ``MAX_DIFFERENCE``.
        caption: a caption of all pictures; "" for none. The paper does not say what its decoder is told.

    Raises:
        UserError: a share is out of range.
    """
    if not all(0.0 <= share <= MAX_DIFFERENCE for share in shares):
        raise UserError(f"a share of a text difference must be from 0 to {MAX_DIFFERENCE}, not {max(shares):g}")
    vectors = slerp(latents.vector, difference, shares)
    return [ImageRequest(caption, vector=vector, start=latents.noise) for vector in vectors]


def make_components(
    latents: Latents, components: PrincipalComponents, counts: Sequence[int], space: EmbeddingSpace, caption: str = ""
) -> list[ImageRequest]:
    """Returns requests of a picture whose embedding is rebuilt from its first principal components (figure 7).

    Args:
        latents: the picture.
        components: principal components of the vectors of training images, from ``clip.codes.fit_components``.
        counts: numbers of components.
        space: the decoder's space, which gives vectors their length back.
        caption: a caption of all pictures; "" for none.

    Raises:
        UserError: there are not so many components.
    """
    rebuilt = [space.to_vectors(components.keep(np.asarray(latents.vector)[None], count))[0] for count in counts]
    return [ImageRequest(caption, vector=vector, start=latents.noise) for vector in rebuilt]


def text_difference(cascade: Cascade, from_caption: str, to_caption: str) -> Vector:
    """Returns the direction from one caption's embedding to another's: z_d of equation (1), as long as z_i.

    Args:
        cascade: a cascade whose text encoder is a CLIP's.
        from_caption: a caption of the picture, "a photo", or "" for nothing.
        to_caption: what the picture shall become.

    Raises:
        UserError: the text encoder gives no vectors, or both captions have the same embedding.
    """
    encoder, reader = cascade.encoder, vectors_reader(cascade.encoder)
    if encoder is None or reader is None:
        raise UserError(
            "a text difference needs stages whose text encoder is a CLIP's, trained with config.text.encoder='clip'"
        )
    before, after = np.asarray(reader(encoder.encode([from_caption, to_caption])), np.float64)
    direction = after - before
    length = np.linalg.norm(direction)
    if length < 1e-4 * np.linalg.norm(after):
        raise UserError(
            f"{from_caption!r} and {to_caption!r} have the same embedding, and no difference of direction: change one"
        )
    return (direction / length * np.linalg.norm(after)).astype(np.float32)


def slerp(first: Any, second: Any, shares: Sequence[float]) -> np.ndarray:
    """Returns spherical interpolations of two arrays, ``(shares, *shape)``."""
    one, other = (jnp.repeat(jnp.asarray(end, jnp.float32)[None], len(shares), axis=0) for end in (first, second))
    return np.asarray(interpolate(one, other, jnp.asarray(shares, jnp.float32)))
