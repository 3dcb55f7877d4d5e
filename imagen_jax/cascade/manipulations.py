r"""Manipulates an image through what a decoder makes it from: CLIP's embedding z_i and the noise x_T.

    image -> (z_i, x_T)  (``encode``) -> a row of requests that change one of the two -> ``Cascade.draw`` -> images

Ramesh et al. 2022, sections 3 and 4. z_i says what the image shows, and x_T, found by DDIM inversion under z_i, all
the rest: DDIM without noise makes the same image of both.

    variations       the same z_i, and DDIM with noise (η > 0) from x_T, or noise of the seed instead of x_T
    interpolation    slerp(z_i, z_i', θ), θ from 0 to 1; x_T slerped too, or one noise for all
    text difference  slerp(z_i, z_d, θ), z_d = norm(z_t - z_t0), θ from 0 to at most 0.5; x_T stays             (1)
    components       z_i rebuilt from its first principal components (figure 7); x_T stays

slerp is ``sampling.edits.interpolate``. The paper gives θ of text differences a maximum between 0.25 and 0.50.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.edits import Edit, ImageInput, pixels_of
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.settings import pick_for_stage
from imagen_jax.cascade.stage import Stage
from imagen_jax.clip.codes import PrincipalComponents
from imagen_jax.clip.embedding_space import EmbeddingSpace, to_unit
from imagen_jax.data.pixels import crop_centre_square
from imagen_jax.encoders.feature_networks import extract_features
from imagen_jax.encoders.pretrained_clip import Clip, load_clip, name_vectors
from imagen_jax.errors import UserError
from imagen_jax.sampling.edits import interpolate

Vector = Float[np.ndarray, " embedding"]

MAX_DIFFERENCE = 0.5
"""The largest θ of equation (1) in the paper."""


class Latents(NamedTuple):
    """What a decoder makes an image from.

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
        raise UserError(f"{cascade.names[0]} is not a decoder: list the decoder first in --stages, or after its prior")
    return stage


def without_prior(cascade: Cascade) -> Cascade:
    """Returns the cascade without its prior, if it begins with one: a manipulation brings z_i along."""
    if not cascade.stages[0].makes_vectors:
        return cascade
    count = len(cascade.trained)
    overrides = {
        name: value[1:] if isinstance(value, list | tuple) and len(value) == count else value
        for name, value in cascade.overrides.items()
    }
    return replace(cascade, trained=cascade.trained[1:], overrides=overrides)


def load_clip_of(cascade: Cascade, path: str | None = None) -> Clip:
    """Loads the CLIP that the decoder was trained with.

    Args:
        cascade: a cascade whose first stage is the decoder.
        path: where the CLIP is, if it has moved since.

    Raises:
        UserError: the first stage is no decoder, or its config names no CLIP and no path is given.
    """
    decoder_of(cascade)
    config = cascade.trained[0].config
    # If the CLIP is the text encoder too, the flag --text_encoder may have moved it.
    moved = config.text.options.get("folder") if config.text.encoder == "clip" else None
    path = path or moved or config.embedding.clip
    if not path:
        raise UserError(
            f"the config of {cascade.names[0]} names no CLIP, which embeds the image: use imagen-jax manipulate, whose "
            "flag --clip names it"
        )
    return load_clip(path, model="")


def embed_image(cascade: Cascade, clip: Clip, image: ImageInput) -> Vector:
    """Returns z_i of an image's centre square, as the decoder is told it.

    Raises:
        UserError: the image can't be read, the first stage is no decoder, or it was trained with another CLIP.
    """
    stage = decoder_of(cascade)
    trained_with = cascade.trained[0].config.fingerprints.get("image_encoder")
    if trained_with not in (None, name_vectors(clip, stage.space)):
        raise UserError(
            f"{cascade.names[0]} was trained with the embeddings of {trained_with}, not with those of "
            f"{name_vectors(clip, stage.space)}: give the CLIP with the same weights"
        )
    square = crop_centre_square(pixels_of(image))
    embedding = extract_features(clip.image, [square], show=False).pooled
    return np.asarray(stage.space.to_vectors(embedding), np.float32)[0]


def encode(cascade: Cascade, clip: Clip, image: ImageInput, caption: str = "") -> Latents:
    """Encodes the centre square of an image as (z_i, x_T): by CLIP, and by DDIM inversion under z_i, unguided.

    Guidance would change the image: Dhariwal & Nichol 2021 (appendix F) invert without it too.

    Args:
        cascade: a cascade whose first stage is the decoder.
        clip: the CLIP that the decoder was trained with.
        image: a path, a Pillow image, or a uint8 array.
        caption: a caption of the image; "" for none.

    Raises:
        UserError: as ``embed_image``.
    """
    vector = embed_image(cascade, clip, image)
    request = ImageRequest(caption, vector=vector)
    noise = unguided(cascade).invert(request, Edit(image=pixels_of(image), invert=caption))
    return Latents(vector, noise)


def unguided(cascade: Cascade) -> Cascade:
    """Returns the cascade whose decoder reconstructs an image: DDIM without noise, guidance and thresholds."""
    return with_decoder(cascade, sampler="ddim", eta=0.0, guidance=1.0, thresholding="none")


def with_decoder(cascade: Cascade, **settings: Any) -> Cascade:
    """Returns the cascade with other sampling settings of its decoder alone."""
    count = len(cascade.trained)
    values = [
        one.config.sampling.to_dict() | pick_for_stage(cascade.overrides, number, count)
        for number, one in enumerate(cascade.trained)
    ]
    lists = {name: [value, *(each[name] for each in values[1:])] for name, value in settings.items()}
    return cascade.adjusted(**lists)


def reconstruct(cascade: Cascade, latents: Latents, caption: str = "") -> Float[np.ndarray, "height width 3"]:
    """Returns the decoder's image of latents, in [-1, 1]: the encoded image but for rounding."""
    request = ImageRequest(caption, vector=latents.vector, start=latents.noise)
    return next(unguided(cascade).draw_each_stage([request]))[0]


def signal_to_noise(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of two images in [-1, 1], in dB; infinity if they are equal."""
    error = float(np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2))
    return float("inf") if error == 0.0 else 10.0 * float(np.log10(4.0 / error))


def make_variations(latents: Latents, count: int, caption: str = "", fresh_noise: bool = False) -> list[ImageRequest]:
    """Returns requests of variations of an image.

    With η > 0 (``with_decoder(cascade, sampler="ddim", eta=…)``) they begin at x_T, as in the paper; with
    ``fresh_noise`` each begins at a noise of its own, as in other programs.
    """
    start = None if fresh_noise else latents.noise
    return [ImageRequest(caption, index, vector=latents.vector, start=start) for index in range(count)]


def make_interpolation(
    first: Latents, second: Latents, shares: Sequence[float], caption: str = "", one_noise: bool = False
) -> list[ImageRequest]:
    """Returns requests on the way between two images.

    Args:
        first: the latents at share 0.
        second: the latents at share 1.
        shares: places of the way, in [0, 1].
        caption: a caption of all images; "" for none.
        one_noise: whether all start from the noise of the seed. Otherwise x_T is interpolated too, and the ends are the
            images themselves.
    """
    vectors = slerp(first.vector, second.vector, shares)
    noises = [None] * len(shares) if one_noise else list(slerp(first.noise, second.noise, shares))
    return [ImageRequest(caption, vector=vector, start=noise) for vector, noise in zip(vectors, noises, strict=True)]


def make_text_difference(
    latents: Latents, difference: Vector, shares: Sequence[float], caption: str = ""
) -> list[ImageRequest]:
    """Returns requests on the way from an image towards a difference of captions. Equation (1).

    Args:
        latents: the image.
        difference: the result of ``text_difference``.
        shares: values of θ, from 0 to ``MAX_DIFFERENCE``.
        caption: a caption of all images; "" for none. The paper does not say what its decoder is told.

    Raises:
        UserError: a share is out of range.
    """
    for share in shares:
        if not 0.0 <= share <= MAX_DIFFERENCE:
            raise UserError(f"a share of a text difference must be from 0 to {MAX_DIFFERENCE}, not {share:g}")
    as_long = difference * (np.linalg.norm(latents.vector) / np.linalg.norm(difference))
    vectors = slerp(latents.vector, as_long, shares)
    return [ImageRequest(caption, vector=vector, start=latents.noise) for vector in vectors]


def make_components(
    latents: Latents, components: PrincipalComponents, counts: Sequence[int], space: EmbeddingSpace, caption: str = ""
) -> list[ImageRequest]:
    """Returns requests of an image whose embedding is rebuilt from its first principal components (figure 7).

    Args:
        latents: the image.
        components: principal components of the vectors of a data set's images, from ``clip.codes.fit_components``.
        counts: numbers of components.
        space: the decoder's space, which gives vectors their length back.
        caption: a caption of all images; "" for none.

    Raises:
        UserError: there are not so many components.
    """
    rebuilt = [space.to_vectors(components.keep(np.asarray(latents.vector)[None], count))[0] for count in counts]
    return [ImageRequest(caption, vector=vector, start=latents.noise) for vector in rebuilt]


def text_difference(clip: Clip, from_caption: str, to_caption: str) -> Vector:
    """Returns the direction from one caption's embedding to another's, of length 1: z_d of equation (1).

    Args:
        clip: the CLIP that the decoder was trained with.
        from_caption: a caption of the image, "a photo", or "" for nothing.
        to_caption: what the image shall become.

    Raises:
        UserError: both captions have the same embedding.
    """
    before, after = to_unit(clip.encode_texts([from_caption, to_caption]).astype(np.float64))
    direction = after - before
    length = np.linalg.norm(direction)
    if length < 1e-4 * np.linalg.norm(after):
        raise UserError(
            f"{from_caption!r} and {to_caption!r} have the same embedding, so there is no direction between them: "
            "change one"
        )
    return np.asarray(direction / length, np.float32)


def slerp(first: Any, second: Any, shares: Sequence[float]) -> np.ndarray:
    """Returns spherical interpolations of two arrays, ``(shares, *shape)``."""
    one, other = (jnp.repeat(jnp.asarray(end, jnp.float32)[None], len(shares), axis=0) for end in (first, second))
    return np.asarray(interpolate(one, other, jnp.asarray(shares, jnp.float32)))
