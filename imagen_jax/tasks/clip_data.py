"""Opens the data that a CLIP trains on, and puts their batches on the devices.

config -> data set -> what each tower takes of it: pixels or stored features; token ids or stored features -> ClipData
examples of a batch -> images, captions, a number for each caption -> Pairs
validation split -> held-out images and captions, on the host
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from imagen_jax.cascade.experiment import ClipExperiment
from imagen_jax.clip.feature_head import FeatureHead
from imagen_jax.clip.pair import Pair, Pairs
from imagen_jax.data.batches import Batches, Mixture, check_batch_size
from imagen_jax.data.data_sets import DataSets
from imagen_jax.data.device_feed import to_devices
from imagen_jax.data.tokenizer import Tokenize, pad_token_ids, truncate_token_ids
from imagen_jax.data.transforms import Transform, make_example, make_keys
from imagen_jax.encoders.data_set_embeddings import open_store
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.encoders.feature_networks import FEATURE_NETWORKS
from imagen_jax.encoders.frozen_features import average_tokens, check_features
from imagen_jax.encoders.image_embeddings import open_image_embeddings
from imagen_jax.errors import UserError, lookup
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path
from imagen_jax.tasks.clip_tokenizer import open_tokenizer
from imagen_jax.tasks.training_data import make_training_batches, open_agreed

ImagesOf = Callable[[Mapping[str, Any]], np.ndarray]
"""``images_of(examples)``: what the image tower takes of a host batch."""

CaptionsOf = Callable[[Sequence[str]], np.ndarray]
"""``captions_of(captions)``: what the text tower takes."""


class HeldOut(NamedTuple):
    """The pairs that are held out of training, in stored order.

    Attributes:
        keys: the images' keys.
        captions: all captions of each image.
        images: what the image tower takes, on the host.
    """

    keys: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    images: np.ndarray


class ClipData(NamedTuple):
    """The data of a CLIP's training, opened.

    Attributes:
        batches: host batches of the training split.
        feed: puts a host batch on the devices.
        captions_of: what the text tower takes of captions of the data and of the prompts.
        held_out: reads the held-out pairs.
        fingerprints: identify the data and the frozen networks.
    """

    batches: Batches
    feed: Callable[[Mapping[str, Any]], Pairs]
    captions_of: CaptionsOf
    held_out: Callable[[], HeldOut]
    fingerprints: dict[str, str]


def open_clip_data(
    config: ClipExperiment, pair: Pair, workdir: Path, batch: Pairs, prompts: Sequence[str] = ()
) -> ClipData:
    """Opens the data sets, and computes the features of frozen networks that are not stored yet.

    Args:
        config: the config.
        pair: the towers.
        workdir: folder of the run; it keeps a tokenizer that is trained on the captions.
        batch: shapes and shardings of a batch.
        prompts: further texts that ``captions_of`` will get, such as those of classes.

    Raises:
        UserError: the data can't be opened, the batch exceeds them, or a frozen network has other features.
    """
    data, size = config.data, config.training.batch_size

    opened = open_agreed(data)
    images = opened.load("train")
    check_batch_size(size, jax.process_count(), len(images))
    transform, images_of, image_network = open_images(config, pair, opened)
    captions_of, text_encoder = open_captions(config, pair, opened, workdir, prompts)
    batches = make_training_batches(data, opened, images, transform, size, config.seed)
    placement = batch.images.sharding

    def feed(examples: Mapping[str, Any]) -> Pairs:
        captions = list(examples["caption"])
        return Pairs(*to_devices((images_of(examples), captions_of(captions), number_captions(captions)), placement))

    def held_out() -> HeldOut:
        return read_held_out(opened.load("validation"), transform, images_of, config.clip.held_out)

    fingerprints = {"data_set": opened.fingerprint, "image_network": image_network, "text_encoder": text_encoder}
    present = {name: value for name, value in fingerprints.items() if value}
    return ClipData(batches, feed, captions_of, held_out, present)


def number_captions(captions: Sequence[str]) -> np.ndarray:
    """Returns a number for each caption, int32: equal captions have equal numbers, on all hosts.

    Different captions have equal numbers by chance: of a batch of 32,768, a quarter of a pair.
    """
    return np.array([zlib.crc32(caption.encode("utf-8", "surrogatepass")) for caption in captions], np.uint32).view(
        np.int32
    )


def open_images(config: ClipExperiment, pair: Pair, opened: DataSets) -> tuple[Transform, ImagesOf, str]:
    """Returns how images are read, what the image tower takes of them, and the name of a frozen network, or "".

    Raises:
        UserError: the frozen network is unknown or has another number of features.
    """
    tower: Any = pair.image
    if not isinstance(tower, FeatureHead):
        return make_example(tower.resolution, config.data.crop), lambda examples: examples["image"], ""
    network = lookup(FEATURE_NETWORKS, tower.network, "image_tower.network")()
    check_features(tower, network.width, "image_tower")
    if config.data.crop != "centre":
        raise UserError(
            "the features of images are stored once, of the whole square: set config.data.crop='centre', or train an "
            "image tower on pixels"
        )
    store = open_image_embeddings(opened.folders, network)

    def images_of(examples: Mapping[str, Any]) -> np.ndarray:
        return store.lookup(list(examples["key"]), examples["mirrored"])

    return make_keys(), images_of, f"{network.name}-{network.sha256[:16]}"


def open_captions(
    config: ClipExperiment, pair: Pair, opened: DataSets, workdir: Path, prompts: Sequence[str]
) -> tuple[CaptionsOf, str]:
    """Returns what the text tower takes of captions, and the name of a frozen encoder, or "".

    Raises:
        UserError: the frozen encoder is unknown or has another width, or the tokenizer can't be read.
    """
    tower: Any = pair.text
    if not isinstance(tower, FeatureHead):
        tokenize = open_tokenizer(config.clip.tokenizer, opened.folders, workdir, tower.vocabulary)
        return tokens_for(tokenize, tower.context), ""
    encoder = load_text_encoder(tower.network)
    check_features(tower, encoder.width, "text_tower")
    store = processes.run_on_process_zero_first(lambda: open_store(opened.folders, encoder, prompts))

    def captions_of(captions: Sequence[str]) -> np.ndarray:
        return average_tokens(store.lookup(list(captions), encoder.max_tokens))

    return captions_of, encoder.name


def tokens_for(tokenize: Tokenize, context: int) -> CaptionsOf:
    """Makes the function from captions to token ids, ``(captions, context)``.

    Longer captions keep their end token. A warning shows the first of them.
    """
    told: list[str] = []

    def captions_of(captions: Sequence[str]) -> np.ndarray:
        whole = tokenize(captions)
        too_long = [caption for caption, ids in zip(captions, whole, strict=True) if len(ids) > context]
        if too_long and not told:
            told.append(too_long[0])
            logging.warning(
                "the caption %r has more than %d tokens and is cut: raise config.text_tower.context if many are",
                too_long[0],
                context,
            )
        sequences = [truncate_token_ids(ids, context) for ids in whole]
        return pad_token_ids(sequences, len(sequences), context)[0]

    return captions_of


def read_held_out(mixture: Mixture, transform: Transform, images_of: ImagesOf, limit: int) -> HeldOut:
    """Reads the first pairs of the validation split.

    Raises:
        UserError: an image can't be read.
    """
    stored = [source[index] for source in mixture.sources for index in range(len(source))][:limit]
    prepared = [transform.prepare(one) for one in stored]
    examples = {
        **transform.finish(np.stack([square(one.pixels) for one in prepared])),
        "key": np.array([one.key for one in prepared]),
        "mirrored": np.zeros(len(prepared), bool),
    }
    return HeldOut(tuple(one.key for one in prepared), tuple(one.captions for one in prepared), images_of(examples))


def square(pixels: np.ndarray) -> np.ndarray:
    """Returns the square in the middle of an image that a random crop would cut."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]
