"""Opens the data that a prior of codes trains on, and puts their batches on the devices.

config -> CLIP -> embeddings of all images, states of all captions; both stored once -> CodesData
training split -> principal components, edges of buckets -> WORKDIR/codes.npz
examples of a batch -> codes of the images by key, caption and z_t by caption -> CodeBatch
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from imagen_jax.array_types import Text
from imagen_jax.cascade.code_stage import BOOK, CodeBatch, check_book
from imagen_jax.cascade.experiment import CodesExperiment
from imagen_jax.clip.codes import (
    CodeBook,
    HostVectors,
    dot_products,
    fit_code_book,
    load_code_book,
    save_code_book,
    to_unit_channels,
)
from imagen_jax.config.codes_sections import CodesConfig
from imagen_jax.data.batches import Batches, Mixture, check_batch_size
from imagen_jax.data.device_feed import to_devices, to_devices_padded
from imagen_jax.data.transforms import make_keys
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.encoders.clip_text import ClipTextEncoder, load_clip_text
from imagen_jax.encoders.data_set_embeddings import open_store
from imagen_jax.encoders.embedding_store import EmbeddingStore
from imagen_jax.encoders.image_embeddings import ImageEmbeddings, open_image_embeddings
from imagen_jax.encoders.pretrained_clip import Clip, load_clip
from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path
from imagen_jax.tasks.training_data import make_training_batches, open_agreed
from imagen_jax.training.workdir import has_begun, make_workdir, writing_to

CAPTIONS_AT_ONCE = 1024


class CodesData(NamedTuple):
    """The data of the training of a prior of codes, opened.

    Attributes:
        batches: host batches of the training split.
        feed: puts a host batch on the devices.
        book: the code book.
        fingerprints: identify the data, the CLIP and the code book.
    """

    batches: Batches
    feed: Callable[[Mapping[str, Any]], CodeBatch]
    book: CodeBook
    fingerprints: dict[str, str]


class Embedded(NamedTuple):
    """The embeddings of a data set.

    Attributes:
        images: stored image embeddings.
        captions: stored states of captions' tokens.
        text_length: number of tokens of a caption.
    """

    images: ImageEmbeddings
    captions: EmbeddingStore
    text_length: int

    def look_up_images(self, keys: list[str], mirrored: np.ndarray | None) -> HostVectors:
        """Returns z_i of images, of length √channels."""
        return to_unit_channels(self.images.lookup(keys, mirrored))

    def look_up_captions(self, captions: list[str]) -> tuple[Text, HostVectors]:
        """Returns the states of captions' tokens, and z_t, of length √channels."""
        text = self.captions.lookup(captions, self.text_length)
        assert self.captions.vectors_of is not None
        return text, np.asarray(self.captions.vectors_of(text), np.float32)


def open_codes_data(config: CodesExperiment, workdir: Path, batch: CodeBatch) -> CodesData:
    """Opens the data sets, computes embeddings that are not stored yet, and makes or reads the code book.

    Args:
        config: the config.
        workdir: folder of the run; it keeps the code book.
        batch: shapes and shardings of a batch.

    Raises:
        UserError: the data or the CLIP can't be opened, do not fit the config, or the batch exceeds them.
    """
    data, size = config.data, config.training.batch_size
    if data.crop != "centre":
        raise UserError("the embeddings of images are stored once, of the whole square: set config.data.crop='centre'")
    clip, encoder = load_tower_of_each(config.codes)
    opened = open_agreed(data)
    images = opened.load("train")
    check_batch_size(size, jax.process_count(), len(images))
    stored = open_image_embeddings(opened.folders, clip.image)
    captions = processes.run_on_process_zero_first(partial(open_store, opened.folders, encoder, ()))
    embedded = Embedded(stored, captions, config.codes.text_length)
    book = open_book(config, workdir, images, embedded)
    transform = make_keys()
    fingerprints = {
        "data_set": opened.fingerprint,
        "text_encoder": encoder.name,
        "clip": clip.sha256[:16],
        "code_book": hashlib.sha256((workdir / BOOK).read_bytes()).hexdigest()[:16],
    }
    processes.check_agreement({"the embeddings": captions.name, **fingerprints})
    batches = make_training_batches(data, opened, images, transform, size, config.seed)
    return CodesData(batches, make_codes_feed(embedded, book, batch), book, fingerprints)


def load_tower_of_each(codes: CodesConfig) -> tuple[Clip, ClipTextEncoder]:
    """Loads the CLIP, and its text tower as a text encoder.

    Raises:
        UserError: there is no such CLIP, or its sizes are not those of the config.
    """
    if not codes.clip:
        raise UserError("a prior of codes predicts the embeddings of a CLIP: set config.codes.clip to its folder")
    clip = load_clip(codes.clip, model="")
    # A head on a frozen text encoder has no context of its own.
    context = clip.description.text.get("context", codes.text_length)
    if codes.text_length > context:
        raise UserError(
            f"config.codes.text_length={codes.text_length} exceeds the CLIP's context of {context} tokens: set it to "
            f"{context} or less"
        )
    encoder = load_clip_text(codes.clip, codes.text_length)
    for key, found in (("channels", encoder.vector_width), ("text_width", encoder.width)):
        if getattr(codes, key) != found:
            raise UserError(
                f"config.codes.{key}={getattr(codes, key)}, and that of {codes.clip} is {found}: set it to {found}"
            )
    return clip, encoder


def open_book(config: CodesExperiment, workdir: Path, images: Mixture, embedded: Embedded) -> CodeBook:
    """Makes the code book of a new run, or reads that of a run which has begun. Every process must call it.

    Raises:
        UserError: the file is missing, damaged or of another config, or there are too few images.
    """

    def make_or_read() -> CodeBook:
        if jax.process_index() == 0 and not has_begun(workdir):
            book = make_book(config.codes, images, embedded)
            share = 100 * book.components.share(book.num_codes)
            print(f"{book.num_codes} of {book.channels} components have {share:.2f}% of the variance.", flush=True)
            make_workdir(workdir)
            with writing_to(workdir):
                save_code_book(book, workdir / BOOK)
        return load_code_book(workdir / BOOK)

    book = processes.run_on_process_zero_first(make_or_read)
    check_book(book, config)
    return book


def make_book(codes: CodesConfig, images: Mixture, embedded: Embedded) -> CodeBook:
    """Makes a code book from at most ``codes.fitted`` training images and their first captions.

    Images of several data sets count equally. Mirror images are left out.

    Raises:
        UserError: there are too few images, or ``fitted`` is not positive.
    """
    if codes.fitted < 1:
        raise UserError(f"config.codes.fitted={codes.fitted}: choose a number of training images, such as 100000")
    everything = [(source, index) for source in images.sources for index in range(len(source))]
    step = -(-len(everything) // codes.fitted)
    keys, captions = [], []
    for source, index in everything[::step]:
        stored = source[index]
        keys.append(stored.key)
        captions.append(stored.captions[0])
    vectors = embedded.look_up_images(keys, None)
    similarities = []
    for start in range(0, len(keys), CAPTIONS_AT_ONCE):
        rows = slice(start, start + CAPTIONS_AT_ONCE)
        similarities.append(dot_products(vectors[rows], embedded.look_up_captions(captions[rows])[1]))
    return fit_code_book(
        vectors,
        np.concatenate(similarities),
        codes.components,
        codes.buckets,
        codes.similarity_buckets,
        codes.spacing,
    )


def make_codes_feed(embedded: Embedded, book: CodeBook, batch: CodeBatch) -> Callable[[Mapping[str, Any]], CodeBatch]:
    """Makes the function that puts host batches on devices, as global arrays.

    Args:
        embedded: the embeddings of the data set.
        book: the code book.
        batch: shapes and shardings of the batch.
    """
    placement: Any = batch.codes.sharding
    wanted: Any = batch.conditions.text

    def feed(examples: Mapping[str, Any]) -> CodeBatch:
        vectors = embedded.look_up_images(list(examples["key"]), examples["mirrored"])
        text, captions = embedded.look_up_captions(list(examples["caption"]))
        host = (book.to_similarity_codes(vectors, captions), book.to_codes(vectors), captions)
        similarity, codes, values = to_devices(host, placement)
        present = to_devices(np.ones(len(vectors), bool), placement)
        here: Any = zip(text, wanted, strict=True)
        tokens = Text(*(to_devices_padded(*each) for each in here))
        return CodeBatch(similarity, codes, Conditions(text=tokens, text_vector=Vectors(values, present)))

    return feed
