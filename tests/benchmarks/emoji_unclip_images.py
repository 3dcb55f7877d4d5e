"""The held-out images, the cascade and the embeddings that ``emoji_unclip`` measures with."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imagen_jax.array_types import HostPixels
from imagen_jax.cascade.cascade import Cascade, load_cascade
from imagen_jax.cascade.image_files import to_pixels
from imagen_jax.cascade.manipulations import Latents, encode, load_clip_of, unguided
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.config.reading import read_section
from imagen_jax.config.sections import DataConfig
from imagen_jax.data.data_sets import DataSets
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.sources.emoji_keys import STYLES, style_of
from imagen_jax.data.stored_images import load_split
from imagen_jax.encoders.feature_networks import FEATURE_NETWORKS, extract_features
from imagen_jax.encoders.image_embeddings import ImageEmbeddings, open_image_embeddings
from imagen_jax.encoders.pretrained_clip import Clip
from imagen_jax.evaluation.metrics.clip_score import unit
from imagen_jax.pretrained import find_stages
from imagen_jax.tasks.training_data import open_configured

BATCH = 16


@dataclass(frozen=True)
class Images:
    """The images of a split.

    Attributes:
        keys: their keys.
        names: their captions without a style; it is the concept too.
        styles: their fonts, as numbers of ``STYLES``.
        embeddings: z_i of length 1.
        encoded: the PNGs.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    styles: np.ndarray
    embeddings: np.ndarray
    encoded: tuple[bytes, ...]

    def pixels(self, index: int) -> HostPixels:
        """The pixels of an image."""
        return decode_pixels(self.encoded[index])


@dataclass(frozen=True)
class Study:
    """What the parts measure with.

    Attributes:
        drawing: prior and decoder.
        decoder: the decoder alone.
        clip: the CLIP.
        held_out: the images that no stage has seen.
        training: the images that they were trained on.
        count: the number of held-out images to manipulate.
    """

    drawing: Cascade
    decoder: Cascade
    clip: Clip
    held_out: Images
    training: Images
    count: int

    def describe(self) -> str:
        """One line for the report."""
        held_out = self.held_out
        return f"{len(held_out.keys)} held-out images of {len(set(held_out.names))} concepts, CLIP {self.clip.identity}"

    @functools.cached_property
    def features(self) -> np.ndarray:
        """The held-out images' features in EfficientNet-Lite0, of which the CLIP's embeddings are a projection."""
        return plain_features([self.held_out.pixels(index) for index in range(len(self.held_out.keys))])

    @functools.cached_property
    def style_means(self) -> np.ndarray:
        """The mean z_i of the training images of each style."""
        return unit(
            np.stack([self.training.embeddings[self.training.styles == style].mean(axis=0) for style in (0, 1, 2)])
        )

    def style_of(self, embeddings: np.ndarray) -> np.ndarray:
        """The style whose training images are nearest in the mean, less what is common to all styles."""
        centre = self.style_means.mean(axis=0)
        return np.argmax(unit(embeddings - centre) @ unit(self.style_means - centre).T, axis=1)

    def embed(self, images: np.ndarray | Sequence[HostPixels]) -> np.ndarray:
        """Returns z_i of length 1."""
        return unit(extract_features(self.clip.image, list(images), show=False).pooled)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns z_t of length 1."""
        return unit(self.clip.encode_texts(list(texts)))

    @functools.cached_property
    def chosen(self) -> list[int]:
        """The held-out images to manipulate: of concepts with all three styles, one style after the other."""
        names = self.held_out.names
        full = [name for name in dict.fromkeys(names) if names.count(name) == len(STYLES)]
        found = {
            (name, style): index for index, (name, style) in enumerate(zip(names, self.held_out.styles, strict=True))
        }
        step = max(1, len(full) // self.count)
        return [found[name, number % 3] for number, name in enumerate(full[::step][: self.count])]

    @functools.cached_property
    def latents(self) -> dict[int, Latents]:
        """(z_i, x_T) of each of the chosen images."""
        return {index: self.encode(index) for index in self.chosen}

    def encode(self, index: int) -> Latents:
        """(z_i, x_T) of a held-out image."""
        return encode(self.decoder, self.clip, self.held_out.pixels(index))


def draw(cascade: Cascade, requests: Sequence[ImageRequest], seed: int = 0) -> np.ndarray:
    """Returns the pixels of the last stage's images."""
    return np.concatenate([to_pixels(stages[-1]) for stages in cascade.draw(requests, seed)])


def draw_vectors(cascade: Cascade, prompts: Sequence[str], seed: int = 0) -> np.ndarray:
    """Returns the z_i of length 1 that the prior draws; the decoder makes one step for nothing."""
    steps = [cascade.stages[0].settings.steps, *[1] * (len(cascade.stages) - 1)]
    batches = cascade.adjusted(steps=steps, candidates=1).draw(
        [ImageRequest(prompt, index) for index, prompt in enumerate(prompts)], seed
    )
    return unit(np.concatenate([np.asarray(stages[0]) for stages in batches]))


def reconstruct_all(study: Study, indices: Sequence[int]) -> np.ndarray:
    """Returns the decoder's images of the latents of some chosen images."""
    requests = [ImageRequest("", vector=study.latents[one].vector, start=study.latents[one].noise) for one in indices]
    return draw(unguided(study.decoder), requests)


def plain_features(images: Sequence[HostPixels]) -> np.ndarray:
    """Features of EfficientNet-Lite0."""
    return extract_features(FEATURE_NETWORKS["efficientnet_lite0"](), images, show=False).pooled


def open_study(stages: str, count: int) -> Study:
    """Loads the stages, and the data of the decoder's training."""
    folders = [str(folder) for folder in find_stages(stages.split(","))]
    drawing, decoder = (load_cascade(some, batch_size=BATCH) for some in (folders[:2], folders[1:2]))
    config = decoder.trained[0].config
    clip = load_clip_of(decoder)
    opened = open_configured(read_section(DataConfig, config.others["data"], "data"))
    store = open_image_embeddings(opened.folders, clip.image)
    held_out, training = (read_images(opened, split, store) for split in ("validation", "train"))
    return Study(drawing, decoder, clip, held_out, training, count)


def read_images(opened: DataSets, split: Any, store: ImageEmbeddings) -> Images:
    """Reads the images of a split."""
    stored = [image for folder in opened.folders for image in load_split(folder, split)]
    keys = tuple(image.key for image in stored)
    styles = np.array([STYLES.index(str(style_of(key))) for key in keys])
    names, encoded = tuple(image.captions[0] for image in stored), tuple(image.encoded for image in stored)
    return Images(keys, names, styles, unit(store.lookup(keys)), encoded)
