"""Opens the data that a stage trains on, and puts their batches on the devices.

config -> data set, text encoder, CLIP -> embeddings of all captions, and of all images -> StageData
examples of a batch -> images; text by caption, vectors of images by key, class by key -> Batch
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.cascade.experiment import Experiment
from imagen_jax.cascade.previews import CAPTIONS_READ, choose_prompts
from imagen_jax.cascade.stage import Batch, Stage
from imagen_jax.cascade.text_encoder import load_encoder
from imagen_jax.config.sections import DataConfig
from imagen_jax.data.batches import Batches, Mixture, check_batch_size
from imagen_jax.data.classes import NO_CLASS
from imagen_jax.data.data_sets import DataSets
from imagen_jax.data.device_feed import to_devices, to_devices_padded
from imagen_jax.data.preparation.builder import PREPARED
from imagen_jax.data.transforms import (
    Transform,
    make_example,
    make_keys,
    make_super_resolution_example,
    with_degradations,
)
from imagen_jax.diffusion.conditions import Conditions, Labels, TokenSequence, Vectors
from imagen_jax.encoders.caption_tokens import CaptionTokenizer, load_caption_tokenizer
from imagen_jax.encoders.data_set_embeddings import open_store
from imagen_jax.encoders.embedding_store import ComputedEmbeddings, Embeddings, EmbeddingStore
from imagen_jax.encoders.encoder import TextEncoder, VectorEncoder, vectors_reader
from imagen_jax.encoders.image_vectors import ImageVectors, open_image_vectors
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.errors import UserError, lookup
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path
from imagen_jax.tasks.training_data import make_training_batches, open_configured

VectorsOf = Callable[[Mapping[str, Any]], np.ndarray]
"""``vectors_of(examples)``: one vector for each example of a host batch, ``(batch, width)``, float32.

``examples`` has the arrays ``image``, ``mirrored`` (whether each image is) and, for a super-resolution stage,
``low_res``, and the lists ``caption`` and ``key``.
"""

EMBEDDINGS = {"stored": EmbeddingStore, "computed": ComputedEmbeddings}
"""Allowed values of ``text.embeddings``.

stored: all captions are embedded before training, unless they already are, and read batch by batch.
computed: the captions of each batch are embedded when it arrives; the encoder stays in memory.
"""


class StageData(NamedTuple):
    """The training data of a stage.

    Attributes:
        folder: data set of the previews; the first of several.
        batches: host batches of the training split.
        store: embeddings of all captions, and of the preview's prompts; None for a stage without text.
        fingerprints: fingerprints of data, text encoder and CLIP, see ``training.workdir``.
        prompts: the prompts of a base's previews.
        tokenizer: the tokenizer of the captions; None for a stage that is told no token ids.
        image_vectors: vectors of all images, if a CLIP gives them.
        data_sets: the data sets.
    """

    folder: Path
    batches: Batches
    store: Embeddings | None
    fingerprints: dict[str, str]
    prompts: tuple[str, ...]
    data_sets: DataSets
    tokenizer: CaptionTokenizer | None = None
    image_vectors: ImageVectors | None = None


def open_stage_data(config: Experiment, stage: Stage, transform: Transform) -> StageData:
    """Builds or opens the data set and the embeddings of its captions and images, and opens the training batches.

    If the config's previews need prompts, it chooses them from the captions.
    """
    clip = load_clip(config.embedding.clip, model="") if config.embedding.clip else None

    def build_or_open() -> tuple[
        DataSets, Mixture, Embeddings | None, TextEncoder | None, tuple[str, ...], CaptionTokenizer | None
    ]:
        data = config.data
        # First, for the weights may be missing, and to read the images may take long.
        encoder = load_encoder(config.text) if config.stage.text else None
        if isinstance(encoder, VectorEncoder) and config.stage.text_vector:
            check_vector_encoder(encoder, config.text.length, config.stage.text_vector)
        tokenizer = load_caption_tokenizer(config.text.tokenizer) if config.stage.tokens else None
        if tokenizer is not None:
            check_vocabulary(tokenizer, config.network.fields.get("text_transformer"))
        opened = open_configured(data)
        # make_batches checks it too, but only after all captions are embedded.
        images = opened.load("train")
        check_batch_size(config.training.batch_size, jax.process_count(), len(images))
        prompts = choose_prompts(config, opened.folders[0])
        if encoder is None:
            return opened, images, None, None, prompts, tokenizer
        if lookup(EMBEDDINGS, config.text.embeddings, "text.embeddings") is ComputedEmbeddings:
            return opened, images, ComputedEmbeddings(encoder), encoder, prompts, tokenizer
        return opened, images, open_store(opened.folders, encoder, prompts), encoder, prompts, tokenizer

    data_sets, images, store, encoder, prompts, tokenizer = processes.run_on_process_zero_first(build_or_open)
    width = width_of_images(stage)
    vectors = None if clip is None else open_image_vectors(clip, data_sets.folders, width, stage.space, encoder)
    processes.check_agreement({"the data set": data_sets.name, "the embeddings": store.name if store else ""})
    size = config.training.batch_size
    batches = make_training_batches(config.data, data_sets, images, transform, size, config.seed)
    frozen = {"text_encoder": encoder, "tokenizer": tokenizer, "image_encoder": vectors}
    names = {name: network.name for name, network in frozen.items() if network is not None}
    fingerprints = {"data_set": data_sets.fingerprint, **names}
    return StageData(data_sets.folders[0], batches, store, fingerprints, prompts, data_sets, tokenizer, vectors)


def check_vocabulary(tokenizer: CaptionTokenizer, sizes: Mapping[str, Any] | None) -> None:
    """Checks that a text transformer embeds all tokens of a tokenizer.

    Args:
        tokenizer: the tokenizer.
        sizes: ``network.text_transformer``; None for a network of the user's own, which may have other fields.

    Raises:
        UserError: its vocabulary is smaller.
    """
    if sizes and sizes["vocabulary"] < tokenizer.vocabulary:
        raise UserError(
            f"the tokenizer {tokenizer.name} has {tokenizer.vocabulary} tokens, and "
            f"config.network.text_transformer.vocabulary={sizes['vocabulary']}: set it to {tokenizer.vocabulary}"
        )


def make_transform(data: DataConfig, crop: int | None, stage: Stage, stored_vectors: bool = False) -> Transform:
    """Makes the transform from a stored example to an example of a batch of this stage.

    Args:
        data: the training images.
        crop: height and width of a super-resolution stage's training crops; None for whole images.
        stage: the stage.
        stored_vectors: whether the stage is told stored vectors of the images, or makes them.

    Raises:
        UserError: ``data.crop`` is unknown or useless for a source of square images, sizes do not fit, or crops would
            not be what the stored vectors are of.
    """
    square, channels = data.crop, stage.shape[-1]
    if stored_vectors and (square != "centre" or crop is not None):
        raise UserError(
            "the vectors of images are stored once, of the whole square: set config.data.crop='centre' and "
            "config.stage.crop=None, or leave config.embedding.clip out"
        )
    if stage.makes_vectors:
        return make_keys()
    if stage.low_resolution is None:
        transform = make_example(stage.resolution, square, channels)
    else:
        transform = make_super_resolution_example(stage.low_resolution, stage.resolution, crop, square, channels)
        if stage.corruption == "bsr":
            transform = with_degradations(transform, stage.resolution // stage.low_resolution, channels)
    if square != "centre" and data.source != PREPARED:
        raise UserError(
            f"data.crop={square!r} finds nothing to cut, for data.source={data.source!r} stores squares: set "
            f"data.crop='centre', or prepare the images (imagen_jax prepare_data) and set data.source={PREPARED!r}"
        )
    return transform


def check_vector_encoder(encoder: VectorEncoder, length: int, width: int) -> None:
    """Checks that a text encoder gives the vectors that a stage is told.

    Args:
        encoder: the encoder.
        length: number of tokens that the stage keeps of a caption.
        width: ``stage.text_vector``.

    Raises:
        UserError: its vectors have another width, or a caption may lose its last token, of which the vector is made.
    """
    if encoder.vector_width != width:
        raise UserError(
            f"the text encoder gives vectors of {encoder.vector_width}, and config.stage.text_vector={width}: set it "
            f"to {encoder.vector_width}"
        )
    if length < encoder.max_tokens:
        raise UserError(
            f"config.text.length={length} would cut the end of captions of up to {encoder.max_tokens} tokens, of which "
            f"their vector is made: set --config.text.options.max_tokens={length}"
        )


def check_vectors(
    stage: Stage, vectors: Mapping[str, VectorsOf], of_captions: bool = False, of_images: bool = False
) -> None:
    """Checks that there is a function for each vector that the network is told or makes, and for no other.

    Args:
        stage: the stage.
        vectors: the functions.
        of_captions: whether the text encoder gives the vectors of captions.
        of_images: whether a CLIP gives the vectors of images.

    Raises:
        UserError: one lacks the other; names both sides.
    """
    widths = {"text_vector": stage.text_vector, "image_vector": width_of_images(stage)}
    there = {"text_vector": of_captions, "image_vector": of_images}
    for name, width in widths.items():
        if width and name not in vectors and not there[name]:
            elsewhere = {
                "text_vector": "let a CLIP encode the captions with config.text.encoder='clip'",
                "image_vector": "name a CLIP with config.embedding.clip",
            }
            raise UserError(
                f"config.stage.{'vector' if stage.makes_vectors and name == 'image_vector' else name}={width} needs a "
                f"vector of each example, and the data have none: {elsewhere[name]}, or give a function of the "
                f"examples, as in train(…, vectors={{{name!r}: my_function}})"
            )
        if not width and (name in vectors or (name == "image_vector" and of_images)):
            raise UserError(
                f"there are vectors for {name}, and the network is not told any: set config.stage.{name} to their width"
            )
    for name in vectors.keys() - widths.keys():
        raise UserError(f"vectors={{{name!r}: …}} is unknown: a stage can be told text_vector and image_vector")


def width_of_images(stage: Stage) -> int:
    """Returns the width of the vectors of images that a stage is told or makes; 0 for none."""
    return stage.shape[0] if stage.makes_vectors else stage.image_vector


def make_feed(
    stage: Stage,
    store: Embeddings | None,
    batch: Batch,
    vectors: Mapping[str, VectorsOf] | None = None,
    tokenizer: CaptionTokenizer | None = None,
) -> Callable[[Mapping[str, Any]], Batch]:
    """Makes the function that puts host batches on devices, as global arrays.

    Args:
        stage: the stage.
        store: embeddings of the captions; None for a stage without text.
        batch: shapes and shardings of the batch.
        vectors: a function for each vector that the network is told.
        tokenizer: the tokenizer of a stage that is told token ids.

    Raises:
        UserError: as ``check_vectors``; and the function that is made, if a vector has another width.
    """
    vectors, of_captions = vectors or {}, vectors_reader(store)
    check_vectors(stage, vectors, of_captions is not None)
    placement, told = batch.clean.sharding, batch.conditions

    def look_up(examples: Mapping[str, Any]) -> Text | None:
        return None if store is None else store.lookup(list(examples["caption"]), stage.text_length)

    def text_of(looked_up: Text | None) -> Text | None:
        if looked_up is None or told.text is None:
            return None
        here: Any = zip(looked_up, told.text, strict=True)
        return Text(*(to_devices_padded(*each) for each in here))

    def tokens_of(examples: Mapping[str, Any]) -> TokenSequence | None:
        if tokenizer is None or told.tokens is None:
            return None
        here: Any = zip(tokenizer.read(list(examples["caption"]), stage.token_length), told.tokens, strict=True)
        return TokenSequence(*(to_devices_padded(*each) for each in here))

    def vector_of(examples: Mapping[str, Any], name: str, looked_up: Text | None = None) -> Vectors | None:
        if name not in vectors:
            if not stage.text_vector or looked_up is None or of_captions is None:
                return None
            values = of_captions(looked_up)
            return Vectors(*to_devices((np.asarray(values, np.float32), np.ones(len(values), bool)), placement))
        values = compute_vectors(vectors[name], examples, name, getattr(stage, name))
        return Vectors(*to_devices((values, np.ones(len(values), bool)), placement))

    def label_of(examples: Mapping[str, Any]) -> Labels | None:
        if stage.classes is None:
            return None
        classes = np.array([stage.classes.label_of(key) for key in examples["key"]], np.int32)
        return Labels(*to_devices((np.maximum(classes, 0), classes != NO_CLASS), placement))

    def feed(examples: Mapping[str, Any]) -> Batch:
        images = to_devices({name: examples[name] for name in ("image", "low_res") if name in examples}, placement)
        if stage.makes_vectors:
            made = compute_vectors(vectors["image_vector"], examples, "image_vector", stage.shape[0])
            images["image"] = to_devices(np.asarray(stage.space.to_samples(made), np.float32), placement)
        looked_up = look_up(examples)
        conditions = Conditions(
            text=text_of(looked_up),
            tokens=tokens_of(examples),
            text_vector=vector_of(examples, "text_vector", looked_up),
            image_vector=None if stage.makes_vectors else vector_of(examples, "image_vector"),
            label=label_of(examples),
            low_resolution=LowResolution(images["low_res"]) if "low_res" in images else None,
        )
        return Batch(images["image"], conditions)

    return feed


def compute_vectors(vectors_of: VectorsOf, examples: Mapping[str, Any], name: str, width: int) -> np.ndarray:
    """Returns a vector for each example of a host batch, ``(batch, width)``, float32.

    Raises:
        UserError: the function returns another shape.
    """
    values, wanted = np.asarray(vectors_of(examples), np.float32), (len(examples["caption"]), width)
    if values.shape != wanted:
        raise UserError(
            f"the function for {name} returns an array of the shape {values.shape}, and a batch of {wanted[0]} "
            f"examples with vectors of {width} needs {wanted}"
        )
    return values


def find_vectors(data: StageData, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the stored vector of an image of each prompt that is a caption of the training split.

    Of a large data set only the first ``CAPTIONS_READ`` images count.
    """
    if data.image_vectors is None or not prompts:
        return {}
    wanted, keys = set(prompts), {}
    images = (source[index] for source in data.data_sets.load("train").sources for index in range(len(source)))
    for stored in islice(images, CAPTIONS_READ):
        for caption in wanted.intersection(stored.captions):
            keys[caption] = stored.key
            wanted.discard(caption)
        if not wanted:
            break
    if not keys:
        return {}
    vectors = data.image_vectors({"key": list(keys.values()), "mirrored": np.zeros(len(keys), bool)})
    return dict(zip(keys, vectors, strict=True))
