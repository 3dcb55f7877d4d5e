"""Turns a user's names and paths into the data sets, captions and networks of an evaluation."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.data.prompts import read_prompts
from imagen_jax.data.stored_images import check_split
from imagen_jax.encoders.feature_network import FeatureNetwork, TextImageNetwork
from imagen_jax.encoders.feature_networks import FEATURE_NETWORKS
from imagen_jax.encoders.inception_weights import load_inception
from imagen_jax.encoders.pretrained_clip import SIZES, load_clip
from imagen_jax.encoders.resizing import RESIZES
from imagen_jax.errors import UserError, lookup
from imagen_jax.evaluation.metrics.reference_statistics import read_published_statistics
from imagen_jax.evaluation.protocols.caption_choice import CaptionChoice, choose_captions, match_captions
from imagen_jax.evaluation.protocols.deviations import PROTOCOLS
from imagen_jax.evaluation.protocols.evaluation import Request
from imagen_jax.evaluation.protocols.measures import PublishedStatistics
from imagen_jax.evaluation.protocols.references import (
    PREPARED_SPLITS,
    Reference,
    check_reference,
    open_reference,
    open_training_data,
)
from imagen_jax.runtime import processes
from imagen_jax.runtime.seeds import check_seed
from imagen_jax.storage.paths import Path, to_path


@dataclass(frozen=True)
class Wanted:
    """A user's request for an evaluation.

    Attributes:
        protocol: key of ``deviations.PROTOCOLS``.
        dataset: key of ``references.DATASETS``; "" for the protocol's data set, or else the base's training data.
        data_dir: folder of the data set.
        cache: folder of the data sets' features; "" for ``reference_features`` beside the evaluation's folder.
        samples: number of captions to sample images for; None for the protocol's number, or for that of the data
            set's images with captions if it has fewer.
        captions_file: file of captions from the data set, one a line; "" for a choice by the seed.
        features: names of feature networks, or a single name; the first gives the headline; () for the protocol's.
        resize: resizing method for Inception's input; "" for its default.
        inception_weights: file of Inception's weights; "" for its default location.
        clip: CLIP model, or "none"; "" for none, unless ``clip_weights`` is set.
        clip_weights: file or folder of CLIP's weights; "" for its default location.
        clip_vocabulary: vocabulary of CLIP's tokenizer, for OpenAI's weights; "" for its default location.
        reference_statistics: npz file of mu and sigma for a second Fréchet distance; "" for none.
        seed: seed of the choice of captions and of the images' noise, from 0 to 4294967295.

    Raises:
        UserError: the seed is out of range.
    """

    protocol: str = "training_captions"
    dataset: str = ""
    data_dir: str = ""
    cache: str = ""
    samples: int | None = None
    captions_file: str = ""
    features: str | Sequence[str] = ()
    resize: str = ""
    inception_weights: str = ""
    clip: str = ""
    clip_weights: str = ""
    clip_vocabulary: str = ""
    reference_statistics: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if isinstance(self.features, str):
            object.__setattr__(self, "features", (self.features,))


def check_wanted(wanted: Wanted) -> None:
    """Checks a request without loading weights or reading the data set.

    Raises:
        UserError: a name is unknown, a folder is missing, or a file can't be read.
    """
    protocol = lookup(PROTOCOLS, wanted.protocol, "protocol")
    if dataset := wanted.dataset or protocol.dataset:
        folder = check_reference(dataset, wanted.data_dir)
        if not folder.is_dir():
            raise UserError(f"--data_dir={folder} is not a folder: name the folder of the data set's files")
        if dataset in PREPARED_SPLITS:
            check_split(folder, PREPARED_SPLITS[dataset])
    for name in wanted.features:
        lookup(dict.fromkeys([*FEATURE_NETWORKS, "inception"]), name, "feature network")
    if wanted.resize:
        lookup(RESIZES, wanted.resize, "way to resize")
    if wanted.clip not in ("", "none"):
        lookup(SIZES, wanted.clip, "CLIP")
    if wanted.captions_file:
        read_prompts(to_path(wanted.captions_file))
    if wanted.reference_statistics:
        read_statistics(to_path(wanted.reference_statistics))


class Opened(NamedTuple):
    """The data of an evaluation, opened before any weights are loaded.

    Attributes:
        reference: the reference data set.
        choice: the chosen captions of the data set.
    """

    reference: Reference
    choice: CaptionChoice


def open_data(base: str, wanted: Wanted) -> Opened:
    """Opens the reference data set and chooses the captions. Every process must call it.

    Args:
        base: folder of the first stage; its training data are the reference if no data set is named.
        wanted: the user's request.

    Raises:
        UserError: a data set or a list of captions can't be used, or the data set has fewer images with captions than
            the user requests.
    """
    protocol = lookup(PROTOCOLS, wanted.protocol, "protocol")
    dataset = wanted.dataset or protocol.dataset
    reference = processes.run_on_process_zero_first(
        lambda: open_reference(dataset, wanted.data_dir) if dataset else open_training_data(to_path(base))
    )
    if wanted.captions_file:
        return Opened(reference, match_captions(reference.captions, read_prompts(to_path(wanted.captions_file))))
    samples = wanted.samples
    if samples is None:
        # At least 1, so that a data set without captions is an error.
        samples = max(1, min(protocol.samples, sum(map(bool, reference.captions))))
    return Opened(reference, choose_captions(reference.captions, samples, wanted.seed))


def make_request(cascade: Cascade, out: Path, wanted: Wanted, opened: Opened | None = None) -> Request:
    """Opens the data and loads the networks that a user's request names. Every process must call it.

    Args:
        cascade: the cascade to evaluate.
        out: folder of the evaluation.
        wanted: the user's request.
        opened: result of ``open_data``; None to call it here.

    Raises:
        UserError: a data set, a list of captions or a file of weights can't be used.
    """
    protocol = lookup(PROTOCOLS, wanted.protocol, "protocol")
    networks = [load_network(name, wanted) for name in wanted.features or protocol.features]
    clip = find_clip(wanted)
    dataset = wanted.dataset or protocol.dataset
    reference, choice = opened or open_data(cascade.names[0], wanted)
    return Request(
        out=out,
        cache=to_path(wanted.cache) if wanted.cache else out.parent / "reference_features",
        protocol=protocol,
        dataset=dataset,
        reference=reference,
        choice=choice,
        networks=networks,
        clip=clip,
        seed=wanted.seed,
        own_captions=bool(wanted.captions_file),
        published=read_statistics(to_path(wanted.reference_statistics)) if wanted.reference_statistics else None,
    )


def read_statistics(path: Path) -> PublishedStatistics:
    """Reads feature statistics that others published, or that a cache of this project holds.

    Raises:
        UserError: the file does not exist or holds no statistics.
    """
    statistics = read_published_statistics(path)
    return PublishedStatistics(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), statistics)


def load_network(name: str, wanted: Wanted) -> FeatureNetwork:
    """Loads a feature network by its name.

    Raises:
        UserError: the name is unknown, or the weights are missing.
    """
    if name == "inception":
        return load_inception(wanted.inception_weights, *([wanted.resize] if wanted.resize else []))
    return lookup(FEATURE_NETWORKS | {"inception": load_inception}, name, "feature network")()


def find_clip(wanted: Wanted) -> TextImageNetwork | None:
    """Loads CLIP if the request names its model or its weights; otherwise returns None.

    Raises:
        UserError: the weights can't be used.
    """
    if wanted.clip == "none" or not (wanted.clip or wanted.clip_weights):
        return None
    return load_clip(wanted.clip_weights, wanted.clip, wanted.clip_vocabulary)
