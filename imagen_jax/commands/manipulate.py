"""Varies a picture, or moves it towards another or a text, by its CLIP embedding and its noise.

    imagen-jax manipulate --how=reconstruction --stages=DECODER --image=cat.png --out=r
    imagen-jax manipulate --how=variations --stages=DECODER,LARGE --image=cat.png --eta=0.6 --samples=8 --out=v
    imagen-jax manipulate --how=interpolation --stages=DECODER,LARGE --image=cat.png --to_image=dog.png --out=i
    imagen-jax manipulate --how=text_difference --stages=DECODER,LARGE --image=cat.png --from_text="a cat"
        --to_text="an angry cat" --out=t
    imagen-jax manipulate --how=components --stages=DECODER,LARGE --image=cat.png --data=DATA --out=c

The decoder comes first in ``--stages``. ``--out`` gets one PNG for each picture, ``strip.png`` with all of them in a
row, and ``manipulation.json`` with the settings and the peak signal-to-noise ratio of the reconstruction.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from imagen_jax.cascade import sampling_flags
from imagen_jax.cascade.cascade import Cascade, load_cascade
from imagen_jax.cascade.edits import pixels_of, resize
from imagen_jax.cascade.image_files import labelled_grid, make_folder, save_png, to_pixels
from imagen_jax.cascade.manipulations import (
    MAX_DIFFERENCE,
    Latents,
    decoder_of,
    encode,
    make_components,
    make_interpolation,
    make_text_difference,
    make_variations,
    reconstruct,
    signal_to_noise,
    text_difference,
    unguided,
    with_decoder,
)
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.stage_flags import read_stages, read_text_encoder
from imagen_jax.clip.codes import fit_components
from imagen_jax.data.pixels import crop_centre_square, to_image
from imagen_jax.encoders.image_embeddings import open_image_embeddings
from imagen_jax.encoders.pretrained_clip import Clip, load_clip
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
IMAGE = flags.DEFINE_string("image", None, "The picture; its centre square counts.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the pictures.", required=True)
CLIP = flags.DEFINE_string("clip", None, "The CLIP that the decoder was trained with, if it has moved since.")
CAPTION = flags.DEFINE_string("caption", "", "A caption of the picture that the decoder is told; by default none.")
SEED = flags.DEFINE_integer("seed", 0, "The same seed gives the same pictures.", 0, MAX_SEED)
SAMPLES = flags.DEFINE_integer("samples", 8, "With --how=variations: number of variations.", lower_bound=1)
FRESH = flags.DEFINE_bool(
    "fresh_noise", False, "With --how=variations: each begins at a noise of its own, and not at the picture's."
)
TO_IMAGE = flags.DEFINE_string("to_image", None, "With --how=interpolation: the other picture.")
ONE_NOISE = flags.DEFINE_bool(
    "one_noise", False, "With --how=interpolation: all start from one noise, and not between those of the pictures."
)
FROM_TEXT = flags.DEFINE_string("from_text", "", "With --how=text_difference: caption of the picture, or nothing.")
TO_TEXT = flags.DEFINE_string("to_text", None, "With --how=text_difference: what the picture shall become.")
FARTHEST = flags.DEFINE_float("farthest", 0.4, "With --how=text_difference: the largest share.", 0.0, MAX_DIFFERENCE)
DATA = flags.DEFINE_string("data", None, "With --how=components: a data set, of whose images the components are.")
COMPONENTS = flags.DEFINE_list(
    "components", ["20", "40", "80", "160"], "With --how=components: numbers of principal components."
)
BETWEEN = flags.DEFINE_integer(
    "between", 7, "With --how=interpolation or text_difference: number of pictures, both ends included.", lower_bound=2
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
        "the manipulation lacks its target: give --to_image with --how=interpolation, --to_text with text_difference, "
        "--data with components",
    ),
    Precondition(
        "eta",
        lambda given: given.how == "variations",
        "--eta has no effect here: it belongs to --how=variations. Leave it out",
    ),
)


class Row(NamedTuple):
    """The pictures of a manipulation.

    Attributes:
        cascade: the cascade, with the settings of the manipulation.
        requests: one for each picture.
        labels: their labels.
    """

    cascade: Cascade
    requests: Sequence[ImageRequest]
    labels: Sequence[str]


def main() -> None:
    """Encodes the picture, samples the row, and writes it."""
    check_flags(PRECONDITIONS)
    out = to_path(OUT.value)
    cascade = load_cascade(
        read_stages(),
        sampling_flags.read_overrides(),
        dtype=sampling_flags.DTYPE.value,
        text_encoder=read_text_encoder(),
    )
    clip = find_clip(cascade)
    make_folder(out)
    latents = encode(cascade, clip, IMAGE.value, CAPTION.value)
    stage = cascade.stages[0]
    picture = resize(to_image(crop_centre_square(pixels_of(IMAGE.value))), stage.resolution)
    ratio = signal_to_noise(reconstruct(cascade, latents, CAPTION.value), picture)
    row = make_row(cascade, clip, latents)
    drawn = [images for batch in row.cascade.draw(row.requests, SEED.value) for images in to_pixels(batch[-1])]
    settings = {
        **{name: flags.FLAGS[name].value for name in SAVED},
        **row.cascade.describe(),
        "clip": clip.identity,
        "reconstruction_psnr": ratio,
    }
    for number, pixels in enumerate(drawn):
        save_png(out / f"{number:02d}.png", pixels, {"label": row.labels[number]})
    side = len(drawn[0])
    source = to_pixels(resize(to_image(crop_centre_square(pixels_of(IMAGE.value))), side))
    save_png(out / "strip.png", labelled_grid(np.stack([source, *drawn]), ["picture", *row.labels], len(drawn) + 1), {})
    write_whole(out / "manipulation.json", (json.dumps(settings, indent=1) + "\n").encode())
    print(f"{len(drawn)} picture(s) and strip.png in {out}. The decoder reconstructs the picture with {ratio:.1f} dB")


SAVED = ("how", "image", "caption", "seed", "samples", "fresh_noise", "to_image", "one_noise", "from_text", "to_text")
"""The flags that ``manipulation.json`` repeats."""


def find_clip(cascade: Cascade) -> Clip:
    """Loads the CLIP that the decoder was trained with.

    Raises:
        UserError: the first stage is no decoder, or its config names no CLIP and ``--clip`` is not given.
    """
    decoder_of(cascade)
    path = CLIP.value or cascade.trained[0].config.embedding.clip
    if not path:
        raise UserError(f"{cascade.names[0]} was trained without a CLIP of ours: name it with --clip")
    return load_clip(path, model="")


def make_row(cascade: Cascade, clip: Clip, latents: Latents) -> Row:
    """Returns the pictures that the flags describe.

    Raises:
        UserError: the other picture can't be read, or the texts have no difference.
    """
    caption, shares = CAPTION.value, np.linspace(0.0, 1.0, BETWEEN.value).tolist()
    if HOW.value == "variations":
        eta = float(sampling_flags.ETA.value[0]) if sampling_flags.ETA.value else 1.0
        requests = make_variations(latents, SAMPLES.value, caption, FRESH.value)
        noise = "fresh noise" if FRESH.value else f"η = {eta:g}"
        labels = [f"{noise}, {number + 1}" for number in range(SAMPLES.value)]
        return Row(with_decoder(cascade, sampler="ddim", eta=eta), requests, labels)
    exact = with_decoder(cascade, sampler="ddim", eta=0.0)
    if HOW.value == "interpolation":
        other = encode(cascade, clip, TO_IMAGE.value, caption)
        requests = make_interpolation(latents, other, shares, caption, ONE_NOISE.value)
        return Row(unguided(cascade), requests, [f"{share:.0%}" for share in shares])
    if HOW.value == "text_difference":
        shares = [share * FARTHEST.value for share in shares]
        difference = text_difference(cascade, FROM_TEXT.value, TO_TEXT.value or "")
        requests = make_text_difference(latents, difference, shares, caption)
        return Row(exact, requests, [f"θ = {share:.2f}" for share in shares])
    if HOW.value == "components":
        counts, space = read_counts(), cascade.stages[0].space
        stored = open_image_embeddings([to_path(DATA.value)], clip.image).plain
        vectors = np.asarray(space.to_vectors(stored.astype(np.float32)))
        requests = make_components(latents, fit_components(vectors), counts, space, caption)
        return Row(exact, requests, [f"{count} components" for count in counts])
    request = ImageRequest(caption, vector=latents.vector, start=latents.noise)
    return Row(unguided(cascade), [request], ["reconstruction"])


def read_counts() -> list[int]:
    """Returns the numbers in ``--components``.

    Raises:
        UserError: one is no number.
    """
    try:
        return [int(count) for count in COMPONENTS.value]
    except ValueError:
        raise UserError(f"--components={','.join(COMPONENTS.value)} must list numbers, as in 20,40,80") from None


if __name__ == "__main__":
    run_main(main, "give the decoder as --stages=FOLDER and the picture as --image=FILE")
