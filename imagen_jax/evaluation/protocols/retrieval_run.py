"""Retrieves captions of images, and images of captions, among those of a held-out split.

images, distinct captions -> embeddings -> recall@k in both directions, beside chance; examples
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from imagen_jax.encoders.feature_network import TextImageNetwork
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.retrieval import (
    CaptionPairs,
    Recalls,
    Retrieval,
    measure_retrieval,
    nearest_items,
    pair_captions,
    rank_queries,
)
from imagen_jax.evaluation.protocols.image_embeddings import embed_images
from imagen_jax.evaluation.protocols.measures import Headline
from imagen_jax.evaluation.protocols.references import Reference
from imagen_jax.evaluation.reports.report import describe_machine

FEW_QUERIES = 100
"""Number of images below which a warning says that the recall says little."""

SHOWN_ITEMS = 5
"""Number of retrieved items of each example."""

DIRECTIONS = {"image_to_text": "image → caption", "text_to_image": "caption → image"}
"""Names of the fields of ``Retrieval`` in reports."""


class Ranked(NamedTuple):
    """The nearest items of one query.

    Attributes:
        query: index of the query.
        items: indices of the nearest items, nearest first.
        is_right: whether each of them is right.
        rank: rank of the query, as the recall counts it.
    """

    query: int
    items: tuple[int, ...]
    is_right: tuple[bool, ...]
    rank: int


@dataclass(frozen=True)
class RetrievalRun:
    """The results of a retrieval.

    Attributes:
        pairs: which captions and images belong together.
        retrieval: recall in both directions.
        of_images: examples with an image as query.
        of_captions: examples with a caption as query.
    """

    pairs: CaptionPairs
    retrieval: Retrieval
    of_images: tuple[Ranked, ...]
    of_captions: tuple[Ranked, ...]


def check_captions(reference: Reference) -> CaptionPairs:
    """Joins equal captions of a split.

    Raises:
        UserError: there are fewer than two images or captions, or an image has no caption.
    """
    if len(reference.captions) < 2:
        raise UserError(f"{reference.name} has {len(reference.captions)} image: retrieval needs at least two")
    return pair_captions(reference.captions)


def run_retrieval(
    network: TextImageNetwork, reference: Reference, pairs: CaptionPairs, examples: int = 8, seed: int = 0
) -> RetrievalRun:
    """Embeds a split, and measures its recall in both directions.

    Args:
        network: the CLIP.
        reference: the split.
        pairs: the result of ``check_captions``.
        examples: max number of examples in each direction.
        seed: seed of the choice of examples.

    Raises:
        UserError: an image can't be decoded, or the embeddings do not compare.
    """
    captions = network.encode_texts(pairs.captions)
    images = embed_images(network.image, reference, range(len(reference.captions)))
    return RetrievalRun(
        pairs=pairs,
        retrieval=measure_retrieval(images, captions, pairs),
        of_images=rank_examples(images, captions, pairs.captions_of, examples, seed),
        of_captions=rank_examples(captions, images, pairs.images_of, examples, seed),
    )


def rank_examples(
    queries: Float[np.ndarray, "queries features"],
    items: Float[np.ndarray, "items features"],
    right: tuple[tuple[int, ...], ...],
    count: int,
    seed: int,
) -> tuple[Ranked, ...]:
    """Returns the nearest items of random queries, the same ones for the same seed."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(queries))[:count]).tolist()
    ranks = rank_queries(queries[chosen], items, [right[query] for query in chosen]).tolist() if chosen else []
    ranked = []
    for query, rank in zip(chosen, ranks, strict=True):
        found = nearest_items(queries[query], items, right[query], SHOWN_ITEMS).tolist()
        ranked.append(Ranked(query, tuple(found), tuple(item in right[query] for item in found), rank))
    return tuple(ranked)


def make_report(
    network: TextImageNetwork, logit_scale: float, reference: Reference, split: str, run: RetrievalRun, seed: int
) -> dict[str, Any]:
    """Returns the results with every fact that a reader needs to repeat them, as plain values."""
    headline = []
    for field, name in DIRECTIONS.items():
        found: Recalls = getattr(run.retrieval, field)
        note = f"of {found.queries} among {found.items}; median rank {found.median_rank:g}"
        headline += [
            Headline(f"{name}, recall@{k}", value, "higher", found.standard_error[k], note, found.chance[k])
            for k, value in found.recall.items()
        ]
    warnings = []
    if split == "train":
        warnings.append("these are training images: a CLIP that was trained on them knows their captions")
    if run.retrieval.image_to_text.queries < FEW_QUERIES:
        warnings.append(f"a recall of only {run.retrieval.image_to_text.queries} images says little")
    return {
        "title": "Retrieval",
        "headline": [one.as_dict() for one in headline],
        "warnings": warnings,
        **{field: getattr(run.retrieval, field).as_dict() for field in DIRECTIONS},
        "data": {
            "images": reference.name,
            "fingerprint": reference.fingerprint,
            "split": split,
            "image_count": len(run.pairs.captions_of),
            "distinct_captions": len(run.pairs.captions),
        },
        "clip": {"name": network.name, **network.image.key, "logit_scale": logit_scale},
        "seed": seed,
        "machine": describe_machine(),
    }


def describe_lines(retrieval: Retrieval) -> list[str]:
    """Returns the lines that the command prints: a table of recalls with standard errors, beside chance."""
    ks = tuple(retrieval.image_to_text.recall)
    head = "".join(f"{f'recall@{k}':>16}  {'chance':>7}" for k in ks)
    lines = [f"{'':16}{head}  median rank"]
    for field, name in DIRECTIONS.items():
        found: Recalls = getattr(retrieval, field)
        cells = (f"{f'{found.recall[k]:.3f} ± {found.standard_error[k]:.3f}':>16}  {found.chance[k]:7.4f}" for k in ks)
        lines.append(f"{name:16}{''.join(cells)}  {found.median_rank:11g}  ({found.queries} among {found.items})")
    return lines
