"""Varies an image, or moves it towards another or a text, by its CLIP embedding and its noise.

    imagen-jax manipulate --how=reconstruction --stages=DECODER --image=cat.png --out=r
    imagen-jax manipulate --how=variations --stages=DECODER,LARGE --image=cat.png --eta=0.6 --samples=8 --out=v
    imagen-jax manipulate --how=interpolation --stages=DECODER,LARGE --image=cat.png --to_image=dog.png --out=i
    imagen-jax manipulate --how=text_difference --stages=DECODER,LARGE --image=cat.png --from_text="a cat"
        --to_text="an angry cat" --out=t
    imagen-jax manipulate --how=components --stages=DECODER,LARGE --image=cat.png --data=DATA --out=c

The decoder comes first in ``--stages``, or after a prior, which is not used. ``--out`` gets one PNG for each image,
``strip.png`` with all of them in a row, and ``manipulation.json`` with the settings and the peak signal-to-noise ratio
of the reconstruction.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from imagen_jax.array_types import HostPixels
from imagen_jax.cascade import sampling_flags
from imagen_jax.cascade.cascade import Cascade, load_planned
from imagen_jax.cascade.edits import read_picture, resize
from imagen_jax.cascade.image_files import labelled_grid, make_folder, save_png, to_pixels
from imagen_jax.cascade.manipulations import (
    MAX_DIFFERENCE,
    Latents,
    Vector,
    encode,
    load_clip_of,
    make_components,
    make_interpolation,
    make_text_difference,
    make_variations,
    reconstruct,
    signal_to_noise,
    text_difference,
    unguided,
    with_decoder,
    without_prior,
)
from imagen_jax.cascade.plans import plan_cascade
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.stage_flags import read_stages, read_text_encoder
from imagen_jax.clip.codes import PrincipalComponents, fit_components
from imagen_jax.data.pixels import crop_centre_square, to_image
from imagen_jax.encoders.pretrained_clip import Clip
from imagen_jax.errors import UserError
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import Precondition, check_flags
from imagen_jax.runtime.seeds import MAX_SEED
from imagen_jax.storage.paths import to_path, write_whole

HOW = flags.DEFINE_enum(
    "how",
    None,
    ["reconstruction", "variations", "interpolation", "text_difference", "components"],
    "The manipulation.",
    required=True,
)
IMAGE = flags.DEFINE_string("image", None, "The image; its centre square counts.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the images.", required=True)
CLIP = flags.DEFINE_string("clip", None, "The CLIP that the decoder was trained with, if it has moved since.")
CAPTION = flags.DEFINE_string("caption", "", "A caption of the image that the decoder is told; by default none.")
SEED = flags.DEFINE_integer("seed", 0, "The same seed gives the same images.", 0, MAX_SEED)
SAMPLES = flags.DEFINE_integer("samples", 8, "With --how=variations: number of variations.", lower_bound=1)
FRESH = flags.DEFINE_bool(
    "fresh_noise", False, "With --how=variations: each begins at a noise of its own, and not at the image's."
)
TO_IMAGE = flags.DEFINE_string("to_image", None, "With --how=interpolation: the other image.")
ONE_NOISE = flags.DEFINE_bool(
    "one_noise", False, "With --how=interpolation: all start from one noise, and not between those of the images."
)
FROM_TEXT = flags.DEFINE_string("from_text", "", "With --how=text_difference: caption of the image, or nothing.")
TO_TEXT = flags.DEFINE_string("to_text", None, "With --how=text_difference: what the image shall become.")
FARTHEST = flags.DEFINE_float("farthest", 0.4, "With --how=text_difference: the largest share.", 0.0, MAX_DIFFERENCE)
DATA = flags.DEFINE_string("data", None, "With --how=components: a data set, of whose images the components are.")
COMPONENTS = flags.DEFINE_list(
    "components", ["20", "40", "80", "160"], "With --how=components: numbers of principal components."
)
BETWEEN = flags.DEFINE_integer(
    "between", 7, "With --how=interpolation or text_difference: number of images, both ends included.", lower_bound=2
)


def needs(flag: str, how: str) -> Precondition:
    """A precondition of a flag that belongs to one manipulation."""
    return Precondition(
        flag, lambda given: given.how == how, f"--{flag} has no effect here: it belongs to --how={how}. Leave it out"
    )


PRECONDITIONS = (
    needs("samples", "variations"),
    needs("fresh_noise", "variations"),
    needs("to_image", "interpolation"),
    needs("one_noise", "interpolation"),
    needs("from_text", "text_difference"),
    needs("to_text", "text_difference"),
    needs("farthest", "text_difference"),
    needs("data", "components"),
    needs("components", "components"),
    Precondition(
        "between",
        lambda given: given.how in ("interpolation", "text_difference"),
        "--between has no effect here: it belongs to --how=interpolation and text_difference. Leave it out",
    ),
    Precondition(
        "how",
        lambda given: all(
            value is not None
            for how, value in (
                ("interpolation", given.to_image),
                ("text_difference", given.to_text),
                ("components", given.data),
            )
            if given.how == how
        ),
        "--how=interpolation needs --to_image, text_difference --to_text, and components --data: give it too",
    ),
    *(
        Precondition(
            flag,
            lambda given: given.how not in ("reconstruction", "interpolation"),
            f"--{flag} has no effect here, since reconstruction and interpolation have none: leave it out",
        )
        for flag in ("guidance", "thresholding")
    ),
    *(
        Precondition(
            flag, lambda given: False, f"--{flag} has no effect here, since the decoder's sampler is ddim: leave it out"
        )
        for flag in ("sampler", "gamma", "candidates")
    ),
    Precondition(
        "eta",
        lambda given: given.how == "variations",
        "--eta has no effect here: it belongs to --how=variations. Leave it out",
    ),
)


class Row(NamedTuple):
    """The images of a manipulation.

    Attributes:
        cascade: the cascade, with the settings of the manipulation.
        requests: one for each image.
        labels: their labels.
    """

    cascade: Cascade
    requests: Sequence[ImageRequest]
    labels: Sequence[str]


class Target(NamedTuple):
    """What the flags name beside the image, read and checked before anything takes long.

    Attributes:
        image: the other image of an interpolation.
        difference: the direction of a text difference.
        counts: numbers of components.
        components: the principal components of a data set's images.
    """

    image: HostPixels | None = None
    difference: Vector | None = None
    counts: Sequence[int] = ()
    components: PrincipalComponents | None = None


def main() -> None:
    """Encodes the image, samples the row, and writes it."""
    check_flags(PRECONDITIONS)
    out, pixels = to_path(OUT.value), read_picture(to_path(IMAGE.value))
    cascade = load()
    clip = load_clip_of(cascade, CLIP.value)
    target = read_target(cascade, clip)
    make_folder(out)
    latents = encode(cascade, clip, pixels, CAPTION.value)
    square = to_image(crop_centre_square(pixels))
    resized = resize(square, cascade.stages[0].resolution)
    ratio = signal_to_noise(reconstruct(cascade, latents, CAPTION.value), resized)
    row = make_row(cascade, clip, latents, target)
    drawn = [images for batch in row.cascade.draw(row.requests, SEED.value) for images in to_pixels(batch[-1])]
    settings = {
        **{name: flags.FLAGS[name].value for name in SAVED},
        "stages": cascade.names,
        **row.cascade.describe(),
        "labels": list(row.labels),
        "clip": clip.identity,
        "reconstruction_psnr": ratio,
    }
    for number, image in enumerate(drawn):
        save_png(out / f"{number:02d}.png", image, {"label": row.labels[number]})
    source = to_pixels(resize(square, len(drawn[0])))
    save_png(out / "strip.png", labelled_grid(np.stack([source, *drawn]), ["image", *row.labels], len(drawn) + 1), {})
    write_whole(out / "manipulation.json", (json.dumps(settings, indent=1) + "\n").encode())
    print(f"{len(drawn)} image(s) and strip.png in {out}. The decoder reconstructs the image with {ratio:.1f} dB")


SAVED = (
    "how", "image", "caption", "seed", "samples", "fresh_noise", "to_image", "one_noise", "from_text", "to_text",
    "farthest", "between", "components", "data",
)  # fmt: skip
"""The flags that ``manipulation.json`` repeats."""


def load() -> Cascade:
    """Loads the cascade; a CLIP in ``--clip`` is also the text encoder of a decoder that has the CLIP's.

    Raises:
        UserError: as ``plan_cascade`` and ``load_planned``.
    """
    # Only variations have noise on the way, and in the decoder alone.
    overrides = {name: values for name, values in sampling_flags.read_overrides().items() if name != "eta"}
    dtype, text_encoder = sampling_flags.DTYPE.value, read_text_encoder()
    plan = plan_cascade(read_stages(), overrides, dtype, text_encoder)
    has_clip = all(one.config.text.encoder == "clip" for one in plan.stages if one.stage.text_length)
    if CLIP.value and text_encoder is None and has_clip:
        plan = plan_cascade(read_stages(), overrides, dtype, to_path(CLIP.value))
    return without_prior(load_planned(plan))


def read_target(cascade: Cascade, clip: Clip) -> Target:
    """Reads what the flags name beside the image.

    Raises:
        UserError: the other image can't be read, the texts have no difference, or there are not so many components.
    """
    if HOW.value == "interpolation":
        return Target(image=read_picture(to_path(TO_IMAGE.value)))
    if HOW.value == "text_difference":
        return Target(difference=text_difference(clip, FROM_TEXT.value, TO_TEXT.value or ""))
    if HOW.value == "components":
        try:
            counts = [int(count) for count in COMPONENTS.value]
        except ValueError:
            raise UserError(f"--components={','.join(COMPONENTS.value)} must list numbers, as in 20,40,80") from None
        # Here, for a base install lacks what data sets need.
        from imagen_jax.encoders.image_embeddings import open_image_embeddings

        stored = open_image_embeddings([to_path(DATA.value)], clip.image).plain
        components = fit_components(np.asarray(cascade.stages[0].space.to_vectors(stored.astype(np.float32))))
        for count in counts:
            components.check_count(count)
        return Target(counts=counts, components=components)
    return Target()


def make_row(cascade: Cascade, clip: Clip, latents: Latents, target: Target) -> Row:
    """Returns the images that the flags describe."""
    caption, shares = CAPTION.value, np.linspace(0.0, 1.0, BETWEEN.value).tolist()
    if HOW.value == "variations":
        eta = float(sampling_flags.ETA.value[0]) if sampling_flags.ETA.value else 1.0
        requests = make_variations(latents, SAMPLES.value, caption, FRESH.value)
        noise = f"eta {eta:g}, fresh noise" if FRESH.value else f"eta {eta:g}"
        labels = [f"{noise}, {number + 1}" for number in range(SAMPLES.value)]
        return Row(with_decoder(cascade, sampler="ddim", eta=eta), requests, labels)
    exact = with_decoder(cascade, sampler="ddim", eta=0.0)
    if target.image is not None:
        other = encode(cascade, clip, target.image, caption)
        requests = make_interpolation(latents, other, shares, caption, ONE_NOISE.value)
        return Row(unguided(cascade), requests, [f"{share:.0%}" for share in shares])
    if target.difference is not None:
        shares = [share * FARTHEST.value for share in shares]
        requests = make_text_difference(latents, target.difference, shares, caption)
        return Row(exact, requests, [f"share {share:.2f}" for share in shares])
    if target.components is not None:
        space = cascade.stages[0].space
        requests = make_components(latents, target.components, target.counts, space, caption)
        return Row(exact, requests, [f"{count} components" for count in target.counts])
    request = ImageRequest(caption, vector=latents.vector, start=latents.noise)
    return Row(unguided(cascade), [request], ["reconstruction"])


if __name__ == "__main__":
    run_main(main, "give the decoder as --stages=FOLDER and the image as --image=FILE")
