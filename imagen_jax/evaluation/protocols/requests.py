"""From what a person asks for, as names and paths, to what an evaluation needs: data sets, captions, networks."""

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
    """What a person asks for.

    Attributes:
        protocol: a key of ``deviations.PROTOCOLS``.
        dataset: a key of ``references.DATASETS``; "" for the protocol's, or else what the base was trained on.
        data_dir: the data set's folder.
        cache: folder of the data sets' features; "" for one beside the evaluation's.
        samples: captions to draw; None for as many as the protocol says.
        captions_file: captions of the data set, a line each; "" for a choice by the seed.
        features: feature networks, or the only one; the first for the headline; () for the protocol's.
        resize: how pictures come to Inception's size; "" for its default.
        inception_weights: Inception's file; "" for its known place.
        clip: CLIP's model, or "none"; "" for none, unless its weights are named.
        clip_weights: CLIP's file or folder; "" for its known place.
        clip_vocabulary: of CLIP's tokenizer, beside a file of OpenAI's; "" for its known place.
        reference_statistics: an npz file of mu and sigma, to measure against as well; "" for none.
        seed: of the choice of captions and of their pictures, from 0 to 4294967295.

    Raises:
        UserError: it is no seed.
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
    """Checks what a person asks for as far as that takes no weights and no data set.

    Raises:
        UserError: a name is unknown, a folder is missing, or a file can't be read.
    """
    protocol = lookup(PROTOCOLS, wanted.protocol, "protocol")
    if dataset := wanted.dataset or protocol.dataset:
        place = check_reference(dataset, wanted.data_dir)
        if not place.is_dir():
            raise UserError(f"there is no folder {place}: name that of the data set's files in --data_dir")
        if dataset in PREPARED_SPLITS:
            check_split(place, PREPARED_SPLITS[dataset])
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
    """What an evaluation compares with, opened before any weights are loaded.

    Attributes:
        reference: the data set.
        choice: of its captions.
    """

    reference: Reference
    choice: CaptionChoice


def open_data(base: str, wanted: Wanted) -> Opened:
    """Opens the data set that is named, and chooses captions; every process of the run calls it.

    Args:
        base: the first stage's folder, whose training data are compared with where no data set is named.
        wanted: what is asked for.

    Raises:
        UserError: a data set or a list of captions can't be used, or there are fewer captions than are asked for.
    """
    protocol = lookup(PROTOCOLS, wanted.protocol, "protocol")
    dataset = wanted.dataset or protocol.dataset
    reference = processes.run_on_process_zero_first(
        lambda: open_reference(dataset, wanted.data_dir) if dataset else open_training_data(to_path(base))
    )
    if wanted.captions_file:
        return Opened(reference, match_captions(reference.captions, read_prompts(to_path(wanted.captions_file))))
    samples = wanted.samples or protocol.samples
    return Opened(reference, choose_captions(reference.captions, samples, wanted.seed))


def make_request(cascade: Cascade, out: Path, wanted: Wanted, opened: Opened | None = None) -> Request:
    """Opens and loads what is named; every process of the run calls it.

    Args:
        cascade: what is evaluated.
        out: folder of the evaluation.
        wanted: what is asked for.
        opened: what ``open_data`` gave, where it was called before.

    Raises:
        UserError: a data set, a list of captions or a file of weights that can't be used.
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
    """Statistics that others published, or a cache of ours kept.

    Raises:
        UserError: the file is not there or no statistics.
    """
    statistics = read_published_statistics(path)
    return PublishedStatistics(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), statistics)


def load_network(name: str, wanted: Wanted) -> FeatureNetwork:
    """The feature network that is named.

    Raises:
        UserError: there is none of that name, or its weights are not there.
    """
    if name == "inception":
        return load_inception(wanted.inception_weights, *([wanted.resize] if wanted.resize else []))
    return lookup(FEATURE_NETWORKS | {"inception": load_inception}, name, "feature network")()


def find_clip(wanted: Wanted) -> TextImageNetwork | None:
    """CLIP, where it is named.

    Raises:
        UserError: its weights can't be used.
    """
    if wanted.clip == "none" or not (wanted.clip or wanted.clip_weights):
        return None
    return load_clip(wanted.clip_weights, wanted.clip, wanted.clip_vocabulary)
