"""What ``emoji_unclip`` measures: for each claim a table of numbers with controls, and a strip of images."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagen_jax.array_types import HostPixels
from imagen_jax.cascade.edits import resize
from imagen_jax.cascade.image_files import labelled_grid, save_png, to_pixels
from imagen_jax.cascade.manipulations import (
    make_interpolation,
    make_text_difference,
    make_variations,
    signal_to_noise,
    text_difference,
    unguided,
    with_decoder,
)
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.data.class_words import GROUP_DESCRIPTIONS
from imagen_jax.data.classes import CLASSES
from imagen_jax.data.pixels import to_image
from imagen_jax.data.sources.emoji_fonts import STYLE_WORDS
from imagen_jax.data.sources.emoji_keys import STYLES
from imagen_jax.evaluation.metrics.prior import EmbeddingPairs, measure_prior
from imagen_jax.evaluation.metrics.retrieval import measure_recalls, pair_captions
from imagen_jax.evaluation.metrics.zero_shot import build_classifier
from imagen_jax.evaluation.prompt_templates import TEMPLATES
from tests.benchmarks.emoji_unclip_images import Study, draw, draw_vectors, plain_features, reconstruct_all

Rows = dict[str, dict[str, Any]]

ETAS = (0.5, 1.0)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
THETAS = (0.0, 0.25, 0.5)
GUIDANCES = (1.0, 1.5, 3.0)
SHOWN = 6


def mean(values: Any) -> tuple[float, float]:
    """The mean and its standard error."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def save_strip(path: Path, images: Sequence[HostPixels], labels: Sequence[str], columns: int) -> None:
    """Writes images of one size row by row."""
    save_png(path, labelled_grid(np.stack(images), labels, columns), {})


def small(study: Study, index: int) -> HostPixels:
    """A held-out image at the decoder's resolution."""
    side = study.decoder.stages[0].resolution
    return to_pixels(resize(to_image(study.held_out.pixels(index)), side))


def measure_prior_of(study: Study, out: Path) -> Rows:
    """The prior beside z_t and a ridge regression; two draws; and whether captions that name a style have it."""
    held, training = study.held_out, study.training
    draws = [draw_vectors(study.drawing, held.names, seed) for seed in (0, 1)]
    texts = study.embed_texts(held.names)
    rows = np.random.default_rng(0).permutation(len(training.keys))[:5000]
    known = EmbeddingPairs(training.embeddings[rows], study.embed_texts([training.names[row] for row in rows]))
    line = measure_prior(draws, EmbeddingPairs(held.embeddings, texts), held.names, known)
    found: Rows = {}
    for name in ("prior", "best_of_2", "text_vector", "ridge"):
        found[name] = {"cosine": (line[f"{name}_cosine"], line[f"{name}_cosine_error"])}
        found[name] |= {f"recall@{k}": line[f"{name}_recall_at_{k}"] for k in (1, 5, 10)}
    found["chance"] = {f"recall@{k}": line[f"chance_at_{k}"] for k in (1, 5, 10)}
    found["prior"]["cosine of two draws"] = 1.0 - line["prior_diversity"]
    found["prior"]["nearest training image"] = line["prior_nearest_training"]
    found["true embeddings"] = {"nearest training image": line["true_nearest_training"]}
    drawn = study.style_of(draws[0])
    found["prior"]["largest share of a style"] = float(np.bincount(drawn, minlength=3).max() / len(drawn))
    words = [f"{STYLE_WORDS[STYLES[style]]} {name}" for name, style in zip(held.names, held.styles, strict=True)]
    named = draw_vectors(study.drawing, words)
    right = study.style_of(named) == held.styles
    found["prior, style named"] = {
        "cosine": mean(np.sum(named * held.embeddings, axis=1)),
        "right style": mean(right),
        "right style of true embeddings": mean(study.style_of(held.embeddings) == held.styles),
    }
    return found


def measure_reconstruction(study: Study, out: Path) -> Rows:
    """How well (z_i, x_T) return held-out images, unguided."""
    images = [small(study, index) for index in study.chosen]
    again = reconstruct_all(study, study.chosen)
    ratios = np.array(
        [signal_to_noise(one / 127.5 - 1, other / 127.5 - 1) for one, other in zip(images, again, strict=True)]
    )
    pairs = [one for both in zip(images[:12], again[:12], strict=True) for one in both]
    save_strip(out / "reconstruction.png", pairs, ["held out", "reconstructed"] * (len(pairs) // 2), 12)
    row = {
        "dB": mean(ratios),
        "worst": ratios.min(),
        "median": np.median(ratios),
        "share at 30 dB or more": np.mean(ratios >= 30),
    }
    return {"reconstruction": row}


def measure_conditionings(study: Study, out: Path) -> Rows:
    """Figure 8: what the decoder is told, from the same noises."""
    held = study.held_out
    pairs = pair_captions([[name] for name in held.names])
    chosen = np.unique(np.linspace(0, len(pairs.captions) - 1, 4 * study.count).astype(int))
    names, right = ([values[number] for number in chosen] for values in (pairs.captions, pairs.images_of))
    texts, own = study.embed_texts(names), np.arange(len(names))
    found, shown = {}, []
    for kind in ("prior", "text_embedding", "caption"):
        images = draw(study.drawing, [ImageRequest(name, conditioning=kind) for name in names])
        drawn, features = study.embed(images), plain_features(list(images))
        recalls = measure_recalls(features, study.features, right)
        shuffled = measure_recalls(np.roll(features, 1, axis=0), study.features, right)
        found[kind] = {
            "recall@10": (recalls.recall[10], recalls.standard_error[10]),
            "shuffled": shuffled.recall[10],
            "chance": recalls.chance[10],
            "cosine with z_t": mean(np.sum(drawn * texts, axis=1)),
            "with another caption's": mean(np.sum(drawn * texts[np.roll(own, 1)], axis=1)),
        }
        shown.append(images)
    some = np.linspace(0, len(names) - 1, 8).astype(int)
    grid = [shown[kind][index] for kind in range(3) for index in some]
    labels = [f"{names[index]} ({kind})" for kind in found for index in some]
    save_strip(out / "conditionings.png", grid, labels, len(some))
    return found


def classify_groups(study: Study, embeddings: np.ndarray) -> np.ndarray:
    """The zero-shot group of each embedding."""
    prompts = [
        study.embed_texts([template.format(word) for word in one.words for template in TEMPLATES["emoji"]])
        for one in GROUP_DESCRIPTIONS.values()
    ]
    return np.argmax(embeddings @ build_classifier(prompts).T, axis=1)


def measure_variations(study: Study, out: Path) -> Rows:
    """Whether variations keep the concept, the style and the group, and how far they spread, by η."""
    held, chosen, count = study.held_out, study.chosen, 2
    names, styles = np.array([held.names[one] for one in chosen]), held.styles[chosen]
    groups = CLASSES["openmoji_groups"]
    labels = np.array([groups.label_of(held.keys[one]) for one in chosen])
    found, shown = {}, [small(study, one) for one in chosen[:SHOWN]]
    kinds = [*((f"eta {eta:g}", eta, False) for eta in ETAS), ("fresh noise", 0.0, True)]
    for kind, eta, fresh in kinds:
        cascade = with_decoder(study.decoder, sampler="ddim", eta=eta)
        requests = [
            request for one in chosen for request in make_variations(study.latents[one], count, fresh_noise=fresh)
        ]
        images = draw(cascade, requests)
        drawn = study.embed(images)
        nearest = np.array(held.names)[np.argmax(drawn @ held.embeddings.T, axis=1)]
        both = images.reshape(len(chosen), count, *images.shape[1:]).astype(np.float64) / 127.5
        found[kind] = {
            "nearest is of the concept": mean(nearest == np.repeat(names, count)),
            "style": mean(study.style_of(drawn) == np.repeat(styles, count)),
            "zero-shot group": mean(classify_groups(study, drawn) == np.repeat(labels, count)),
            "cosine with z_i": mean(np.sum(drawn * np.repeat(held.embeddings[chosen], count, axis=0), axis=1)),
            "spread (RMS of pixels)": mean(np.sqrt(np.mean((both[:, 0] - both[:, 1]) ** 2, axis=(1, 2, 3)) / 2)),
        }
        shown += [images[count * number] for number in range(SHOWN)]
    order = np.random.default_rng(0).permutation(len(chosen))
    others = held.embeddings[chosen][order]
    found["another image"] = {
        "style": mean(styles[order] == styles),
        "zero-shot group": mean(classify_groups(study, others) == labels),
        "cosine with z_i": mean(np.sum(others * held.embeddings[chosen], axis=1)),
    }
    captions = [label for kind in ["held out", *(kind for kind, _, _ in kinds)] for label in [kind] * SHOWN]
    save_strip(out / "variations.png", shown, captions, SHOWN)
    return found


def measure_interpolations(study: Study, out: Path) -> Rows:
    """Whether the likeness to the first image falls along the way."""
    chosen = study.chosen
    pairs = list(zip(chosen[::2], chosen[1::2], strict=False))
    cascade = unguided(study.decoder)
    requests = [
        request
        for one, other in pairs
        for request in make_interpolation(study.latents[one], study.latents[other], SHARES)
    ]
    images = draw(cascade, requests)
    drawn = study.embed(images).reshape(len(pairs), len(SHARES), -1)
    first = study.held_out.embeddings[[one for one, _ in pairs]]
    cosines = np.einsum("pse,pe->ps", drawn, first)
    falls = np.diff(cosines, axis=1) < 0
    rows: Rows = {f"share {share:g}": {"cosine with the first": mean(cosines[:, n])} for n, share in enumerate(SHARES)}
    rows["from one share to the next"] = {"share that falls": mean(falls.ravel())}
    labels = [f"{share:.0%}" for share in SHARES] * 4
    save_strip(out / "interpolations.png", list(images[: 4 * len(SHARES)]), labels, len(SHARES))
    return rows


def measure_text_differences(study: Study, out: Path) -> Rows:
    """From a flat drawing to a 3D one of the same emoji by a difference of captions, beside differences of others."""
    held = study.held_out
    names = [held.names[one] for one in study.chosen]
    index_of = {(name, style): row for row, (name, style) in enumerate(zip(held.names, held.styles, strict=True))}
    sources, goals = ([index_of[name, style] for name in names] for style in (0, 2))
    latents = [study.latents[one] if one in study.latents else study.encode(one) for one in sources]
    before, after = STYLE_WORDS["openmoji"], STYLE_WORDS["fluent"]
    directions = {
        "flat → 3D": [(f"{before} {name}", f"{after} {name}") for name in names],
        # The same lengths of way, to another emoji of no named style.
        "shuffled captions": list(zip(names, np.roll(names, 1).tolist(), strict=True)),
    }
    cascade = with_decoder(study.decoder, sampler="ddim", eta=0.0)
    wanted = study.embed_texts([f"{after} {name}" for name in names])
    had = study.embed_texts([f"{before} {name}" for name in names])
    found: Rows = {}
    shown = []
    for kind, texts in directions.items():
        requests = [
            request
            for one, (old, new) in zip(latents, texts, strict=True)
            for request in make_text_difference(one, text_difference(study.clip, old, new), THETAS)
        ]
        images = draw(cascade, requests)
        drawn = study.embed(images).reshape(len(names), len(THETAS), -1)
        for number, theta in enumerate(THETAS):
            there = drawn[:, number]
            found[f"{kind}, share {theta:g}"] = {
                "is 3D": mean(study.style_of(there) == 2),
                "nearer to the 3D caption by": mean(np.sum(there * (wanted - had), axis=1)),
                "cosine with the true 3D image": mean(np.sum(there * held.embeddings[goals], axis=1)),
                "cosine with the flat image": mean(np.sum(there * held.embeddings[sources], axis=1)),
            }
        shown.append(images.reshape(len(names), len(THETAS), *images.shape[1:]))
    rows = range(SHOWN)
    grid = [image for row in rows for image in (small(study, sources[row]), *shown[0][row], small(study, goals[row]))]
    labels = ["flat, held out", *(f"share {theta:g}" for theta in THETAS), "3D, held out"] * len(rows)
    save_strip(out / "text_differences.png", grid, labels, len(THETAS) + 2)
    return found


def measure_guidance(study: Study, out: Path) -> Rows:
    """Diversity against agreement with the caption over guidance, by the prior and by the caption alone (figure 9)."""
    names = list(dict.fromkeys(study.held_out.names))[:: max(1, len(set(study.held_out.names)) // 24)][:24]
    texts = study.embed_texts(names)
    found: Rows = {}
    for kind, guidance in itertools.product(("prior", "caption"), GUIDANCES):
        cascade = study.drawing.adjusted(guidance=[1.0, guidance])
        requests = [ImageRequest(name, index, conditioning=kind) for name in names for index in range(2)]
        images = draw(cascade, requests)
        drawn, features = study.embed(images).reshape(len(names), 2, -1), plain_features(list(images))
        features = (features / np.linalg.norm(features, axis=1, keepdims=True)).reshape(len(names), 2, -1)
        found[f"{kind}, guidance {guidance:g}"] = {
            "cosine with z_t": mean(np.einsum("ne,nse->ns", texts, drawn).ravel()),
            "diversity (1 - cosine)": mean(1 - np.sum(features[:, 0] * features[:, 1], axis=1)),
        }
    return found
