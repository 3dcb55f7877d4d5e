"""Measures a trained cascade on its own data, and writes ``report.json`` and ``loss.png``.

    python -m imagen_jax.evaluate --stages=runs/base,runs/super_resolution --out=runs/report.json

Caption recall: training captions are drawn once each, and each picture looks for its own caption's image among all
training images (see ``evaluation/caption_recall.py``).
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from imagen_jax.cascades import Cascade, load_cascade
from imagen_jax.command_line import run_main
from imagen_jax.data.data_sets import open_data_sets
from imagen_jax.data.stored_images import captions_of, load_split
from imagen_jax.data.transforms import make_example
from imagen_jax.errors import UserError, choose
from imagen_jax.evaluation.caption_recall import CaptionRecall, measure_caption_recall
from imagen_jax.evaluation.features import FEATURE_NETWORKS, Extract, extract_features
from imagen_jax.evaluation.loss_plot import plot_losses
from imagen_jax.evaluation.report import describe_machine, describe_training, write_report
from imagen_jax.sampling.pictures import labelled_grid, make_folder, save_png, to_pixels
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.training.metrics import peak_memory_gib, read_metrics
from imagen_jax.training.workdir import read_config, require_sections

STAGES = flags.DEFINE_list("stages", [], "Workdirs of the stages, base first, with commas between.")
OUT = flags.DEFINE_string("out", None, "The report; loss.png and recall.png lie beside it.", required=True)
SAMPLES = flags.DEFINE_integer("samples", 128, "Captions to draw.", lower_bound=2)
FEATURES = flags.DEFINE_list(
    "features", ["efficientnet_lite0", "pixels"], "Feature networks; the first gives the headline number."
)
SEED = flags.DEFINE_integer("seed", 0, "Of the choice of captions and of their pictures.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Pictures drawn at once.", lower_bound=1)

SHOWN = 16
"""Pictures that ``recall.png`` shows, each beside its caption's own image."""


def main(arguments: Sequence[str]) -> None:
    """Evaluates ``--stages`` and says the result."""
    if arguments[1:]:
        raise UserError(f"{arguments[1]!r} is no flag: name stages as --stages=…")
    if not STAGES.value:
        raise UserError(
            "no stages are named: give the workdirs of a trained cascade, as in --stages=runs/base,runs/large"
        )
    out = to_path(OUT.value)
    report = evaluate(
        STAGES.value, out, FEATURES.value, samples=SAMPLES.value, seed=SEED.value, batch_size=BATCH_SIZE.value
    )
    print(
        f"caption recall@10: {report['caption_recall_at_10']:.3f} (captions shuffled: "
        f"{report['caption_recall_at_10_shuffled']:.3f}, chance: {report['chance']:.3f}); the report is {out}"
    )


def evaluate(
    workdirs: Sequence[str], out: Path, networks: Sequence[str], *, samples: int, seed: int, batch_size: int
) -> dict[str, Any]:
    """Draws, measures, and writes the report, ``loss.png`` and ``recall.png``.

    Args:
        workdirs: the stages, base first.
        out: the report's file.
        networks: names of feature networks; the first gives the headline number.
        samples: captions to draw.
        seed: of the choice of captions and of their pictures.
        batch_size: pictures drawn at once.

    Returns:
        The report.

    Raises:
        UserError: a stage or a feature network that can't be used, or an unwritable folder.
    """
    extractors = {name: choose(FEATURE_NETWORKS, name, "feature network")() for name in networks}
    make_folder(out.parent)
    started = time.perf_counter()
    cascade = load_cascade(workdirs, batch_size=batch_size, on_step=lambda step: bar.update())
    config = read_config(to_path(workdirs[0]))
    require_sections(config, ("data",), to_path(workdirs[0]), "an evaluation: the stage was imported, not trained here")
    folder = open_data(config)
    captions = [of_image[0] for of_image in captions_of(folder, "train")]
    picked = np.random.default_rng(seed).permutation(len(captions))[:samples]
    steps = cascade.count_steps() * -(-len(picked) // cascade.batch_size)
    with tqdm(desc="Sampling", total=steps, unit="step", dynamic_ncols=True) as bar:
        drawn = draw(cascade, [captions[index] for index in picked], seed)
    sampled = time.perf_counter()

    recalls = {name: measure(extract, drawn, picked, folder, seed) for name, extract in extractors.items()}
    runs = {to_path(workdir).name: read_metrics(to_path(workdir)) for workdir in workdirs}
    plot_losses(runs, out.with_name("loss.png"))
    show(drawn, picked, captions, folder, out.with_name("recall.png"))
    headline = recalls[networks[0]]
    report = {
        f"caption_recall_at_{headline.k}": headline.recall,
        f"caption_recall_at_{headline.k}_shuffled": headline.shuffled,
        "chance": headline.chance,
        "chance_upper_bound": headline.chance_upper_bound,
        "features": networks[0],
        "recall": {name: recall.as_dict() for name, recall in recalls.items()},
        "stages": {name: describe_training(lines) for name, lines in runs.items()},
        "sampling": {
            "pictures": len(drawn),
            "seconds": sampled - started,
            "seed": seed,
            "settings": cascade.describe(),
        },
        "data": folder.name,
        "evaluation": {"seconds": time.perf_counter() - started, "peak_memory_gib": peak_memory_gib()},
        "machine": describe_machine(),
    }
    write_report(out, report)
    return report


def open_data(config: ConfigDict) -> Path:
    """The data set that a stage was trained on; of several the first."""
    data = config.data
    return open_data_sets(
        data.source, data.resolution, data.data_dir, data.validation_fraction, data.options.to_dict()
    ).folders[0]


def draw(cascade: Cascade, captions: Sequence[str], seed: int) -> np.ndarray:
    """One picture of the last stage for each caption."""
    return np.concatenate([stages[-1] for stages in cascade.draw(captions, seed=seed)])


def measure(extract: Extract, drawn: np.ndarray, picked: np.ndarray, folder: Path, seed: int) -> CaptionRecall:
    """Caption recall in one feature network, among all training images at the size of the drawn ones."""
    ours = extract_features(extract, list(drawn), len(drawn))
    theirs = extract_features(extract, training_images(folder, drawn.shape[1]), len(captions_of(folder, "train")))
    return measure_caption_recall(ours, picked, theirs, seed=seed)


def training_images(folder: Path, resolution: int) -> Iterator[np.ndarray]:
    """Every training image at a resolution, in [-1, 1], in stored order."""
    split, transform = load_split(folder, "train"), make_example(resolution)
    for index in range(len(split)):
        prepared = transform.prepare(split[index])
        yield transform.finish(prepared.pixels[None])["image"][0]


def show(drawn: np.ndarray, picked: np.ndarray, captions: Sequence[str], folder: Path, path: Path) -> None:
    """Writes a grid of the first pictures, each beside its caption's own image."""
    split, transform = load_split(folder, "train"), make_example(drawn.shape[1])
    pictures, labels = [], []
    for image, index in zip(drawn[:SHOWN], picked[:SHOWN], strict=True):
        original = transform.finish(transform.prepare(split[int(index)]).pixels[None])["image"][0]
        pictures += [image, original]
        labels += [captions[index], "original"]
    save_png(path, labelled_grid(to_pixels(np.stack(pictures)), labels, 8), {})


if __name__ == "__main__":
    run_main(main)
