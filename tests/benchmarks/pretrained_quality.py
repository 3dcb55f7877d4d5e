"""How good the cascade in the box is: the numbers of its model card.

From the repository's root; cut at any time, the same command goes on::

    python -m tests.benchmarks.pretrained_quality FOLDER [--samples=1000] [--write]

Draws so many training captions once each, and every held-out caption, which the cascade has never seen: a second a
picture on two CPU cores. In features of EfficientNet-Lite0 it measures

    caption recall@10   how often a picture's own drawing is among the 10 nearest of *all*, the held-out ones too
    Fréchet distance    of the pictures of training captions to all training drawings; and of the same captions'
                        drawings, as they are and blurred, to the same

FOLDER gets the data, the pictures, ``results.json`` and pictures to look at. ``--write`` also puts the table and
the pictures beside the model card.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from imagen_jax import pretrained
from imagen_jax.array_types import HostPixels
from imagen_jax.cascade.cascade import Cascade, load_cascade
from imagen_jax.cascade.image_files import labelled_grid, save_png, to_pixels
from imagen_jax.config.reading import read_section
from imagen_jax.config.sections import DataConfig
from imagen_jax.data.data_sets import open_data_sets
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import StoredImage, load_split
from imagen_jax.encoders.feature_networks import FEATURE_NETWORKS, extract_features
from imagen_jax.evaluation.metrics.caption_recall import CaptionRecall, measure_caption_recall
from imagen_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from imagen_jax.evaluation.protocols.caption_choice import choose_captions
from imagen_jax.runtime.main import enable_compilation_cache

NETWORK = "efficientnet_lite0"
BLURS = (2.0, 4.0, 6.0, 8.0)
"""Standard deviations of Gaussians, in pixels of 256."""

SHOWN_BLUR = 6.0
"""With which a person still knows the drawings: ``blurred.png`` shows it."""

SHOWN = 16
BATCH = 8
PATHS = {split: Path(pretrained.__file__).parent / "openmoji" / f"{split}.png" for split in SPLITS}


def read_all(cascade: Cascade, folder: Path) -> tuple[list[StoredImage], int]:
    """All drawings, those that were trained on first, and how many those are."""
    data = read_section(DataConfig, cascade.trained[0].config.others["data"], "data")
    opened = open_data_sets(data.source, data.resolution, folder / "data", data.validation_fraction, dict(data.options))
    parts = [list(load_split(opened.folders[0], split)) for split in SPLITS]
    return [*parts[0], *parts[1]], len(parts[0])


def draw_all(cascade: Cascade, captions: Sequence[str], folder: Path) -> list[HostPixels]:
    """The picture of each caption; those that are not there yet are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in tqdm(range(0, len(captions), BATCH), desc=f"Drawing {folder.name}", unit="batch"):
        paths = [folder / f"{number:05d}.png" for number in range(start, min(start + BATCH, len(captions)))]
        if all(path.exists() for path in paths):
            continue
        (stages,) = cascade.draw(captions[start : start + BATCH])
        for path, pixels in zip(paths, to_pixels(stages[-1]), strict=True):
            save_png(path, pixels, {})
    return [np.asarray(Image.open(folder / f"{number:05d}.png")) for number in range(len(captions))]


def blur(pixels: HostPixels, deviation: float) -> HostPixels:
    """A picture through a Gaussian of a standard deviation in pixels."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(deviation)))


def show_pairs(path: Path, sampled: Sequence[HostPixels], own: Sequence[HostPixels], captions: Sequence[str]) -> None:
    """Writes a grid of some pictures, evenly chosen, each beside its caption's own drawing."""
    indices = np.linspace(0, len(captions) - 1, SHOWN).round().astype(int)
    pairs = [one for index in indices for one in (sampled[index], own[index])]
    labels = [one for index in indices for one in (captions[index], "original")]
    halves = np.stack([np.asarray(Image.fromarray(one).resize((128, 128), Image.Resampling.BOX)) for one in pairs])
    save_png(path, labelled_grid(halves, labels, 8), {})


def measure(folder: Path, samples: int) -> dict[str, Any]:
    """Draws what is missing, and measures."""
    cascade = load_cascade([pretrained.USUAL], batch_size=BATCH)
    stored, trained_on = read_all(cascade, folder)
    drawings = [decode_pixels(one.encoded) for one in stored]
    chosen = choose_captions([one.captions for one in stored[:trained_on]], samples, seed=0)
    assert chosen.images is not None
    own = {"train": list(chosen.images), "validation": list(range(trained_on, len(stored)))}
    captions = {split: [stored[number].captions[0] for number in own[split]] for split in SPLITS}
    sampled = {split: draw_all(cascade, captions[split], folder / f"{split}_{samples}") for split in SPLITS}
    for split in SPLITS:
        originals = [drawings[number] for number in own[split]]
        show_pairs(folder / f"{split}.png", sampled[split], originals, captions[split])

    network = FEATURE_NETWORKS[NETWORK]()

    def features_of(images: Sequence[HostPixels]) -> np.ndarray:
        return extract_features(network, images).pooled

    all_features = features_of(drawings)
    ours = {split: features_of(sampled[split]) for split in SPLITS}
    recalls: dict[str, CaptionRecall] = {
        split: measure_caption_recall(ours[split], np.asarray(own[split]), all_features) for split in SPLITS
    }
    reference = moments_of(all_features[:trained_on])
    originals = [drawings[number] for number in own["train"]]
    distances = {"drawn": frechet_distance(moments_of(ours["train"]), reference)}
    distances["originals"] = frechet_distance(moments_of(all_features[own["train"]]), reference)
    for deviation in BLURS:
        blurred = features_of([blur(one, deviation) for one in originals])
        distances[f"blurred {deviation:g}"] = frechet_distance(moments_of(blurred), reference)
    examples = [one for original in originals[:8] for one in (original, blur(original, SHOWN_BLUR))]
    save_png(folder / "blurred.png", labelled_grid(np.stack(examples), [""] * len(examples), 8), {})
    return {
        "samples": samples,
        "drawings": len(stored),
        "trained_on": trained_on,
        "settings": cascade.describe(),
        "recalls": {split: recall.as_dict() for split, recall in recalls.items()},
        "distances": distances,
        "machine": f"{platform.machine()}, jax {jax.__version__}",
    }


def write_table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| | reached | asked |", "|---|---|---|"]
    names = {"train": "training", "validation": "held-out"}
    for split, name in names.items():
        one = results["recalls"][split]
        required = "≥ 0.7" if split == "train" else f"≥ {5 * one['chance']:.3f}, five times chance"
        lines.append(
            f"| caption recall@10 of {one['samples']} {name} captions, among all {one['images']} drawings | "
            f"**{one['recall']:.3f}**; shuffled {one['shuffled']:.3f}, chance {one['chance']:.4f} | {required} |"
        )
    distances = results["distances"]
    half = distances[f"blurred {SHOWN_BLUR:g}"] / 2
    lines.append(
        f"| Fréchet distance of those {results['samples']} pictures to the {results['trained_on']} training drawings | "
        f"**{distances['drawn']:.1f}** | < {half:.1f}, half of originals blurred with σ = {SHOWN_BLUR:g} px |"
    )
    lines.append(f"| of the same captions' own drawings | {distances['originals']:.1f} | |")
    for deviation in BLURS:
        lines.append(f"| of those, blurred with σ = {deviation:g} px | {distances[f'blurred {deviation:g}']:.1f} | |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    enable_compilation_cache()
    results = measure(options.folder, options.samples)
    (options.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(write_table(results))
    if options.write:
        for split, path in PATHS.items():
            path.write_bytes((options.folder / f"{split}.png").read_bytes())
        (PATHS["train"].parent / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
