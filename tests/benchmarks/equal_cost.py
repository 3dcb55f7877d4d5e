"""Quality at equal cost: ours and imagen-pytorch with its defaults, after the same minutes of the processor.

From the repository's root, with the extra ``peers``; cut at any time, the same command goes on::

    python -m tests.benchmarks.equal_cost FOLDER [--steps=1550] [--write]

Both train a base on the same OpenMoji drawings at 32 px with the same MiniLM embeddings, in batches of 64:

    ours            ``configs/quickstart.py:base``, for so many steps
    imagen-pytorch  ``Unet`` of the width that comes nearest to our number of parameters, ``Imagen`` and
                    ``ImagenTrainer``, each with its defaults, until the processor has worked as long as for ours

What counts is a process's own time on all cores, from its start, imports and compiling with it. Then both draw the same
training and held-out captions in 16 steps, ours as its config says, the peer at its README's guidance; a picture takes
it ten seconds of the processor, which is why there are not more of them.

In features of EfficientNet-Lite0: caption recall@10 among all drawings, and the Fréchet distance to the training
drawings or to the held-out ones. FOLDER gets all that is made; ``--write`` also puts table and picture here.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import quickstart
from imagen_jax.array_types import HostPixels
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.image_files import labelled_grid, save_png, to_pixels
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.cascade.text_encoder import load_encoder
from imagen_jax.data.data_sets import open_data_sets
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import load_split
from imagen_jax.data.transforms import prepare_centre
from imagen_jax.encoders.embedding_store import ComputedEmbeddings
from imagen_jax.encoders.feature_networks import FEATURE_NETWORKS, extract_features
from imagen_jax.evaluation.metrics.caption_recall import measure_caption_recall
from imagen_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from imagen_jax.evaluation.protocols.caption_choice import choose_captions
from imagen_jax.forecast.parameter_count import count_parameters, total_of
from imagen_jax.runtime.exit_status import ExitStatus
from imagen_jax.runtime.main import enable_compilation_cache
from imagen_jax.training.monitoring.metrics import read_metrics
from tests.benchmarks.equal_cost_work import BATCH, RESOLUTION, SAMPLING_STEPS, read_data, write_json
from tests.benchmarks.peers_table import processor, versions

NETWORK = "efficientnet_lite0"
SAMPLES = 104
"""Of the training captions: as many as there are held out."""

SIDES = ("ours", "peer")
TITLES = {"ours": "imagen-jax", "peer": "imagen-pytorch"}
NAMES = {"train": "training", "validation": "held-out"}
SHOWN = 8
READ_WITH_CARE = """\
How to read it: this is what an hour of two cores makes of either library as it comes, and no verdict on the methods
of imagen-pytorch. Its `Unet` attends over all places of every level unless told otherwise, at full resolution too,
with 8 heads of 64 channels whatever the width, and its trainer learns at 1e-4: of so few steps nothing is to be seen
yet. Who gives it attention in the lower levels alone, as its README does, may get further (`peers.md` measures such
a network's speed). Ours is set up for the occasion: the clean image predicted, pixels in blocks of 4×4, Muon at a high
rate, times drawn towards noise."""


def make_config(folder: Path, steps: int) -> ConfigDict:
    """The quickstart's base, for so many steps."""
    config = quickstart.get_config("base")
    config.data.data_dir = str(folder / "data")
    config.training.update({"steps": steps, "preview_every": 10 * steps, "checkpoint_every": 250})
    config.optimizer.decay_steps = steps
    return config


def write_data(folder: Path, config: ConfigDict) -> None:
    """Writes what both sides train on and draw, unless it is there."""
    if (folder / "data.npz").exists():
        return
    data = config.data
    opened = open_data_sets(
        data.source, data.resolution, data.data_dir, data.validation_fraction, {"skin_tones": False}
    )
    embeddings = ComputedEmbeddings(load_encoder(read_experiment(config).text))
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        stored = list(load_split(opened.folders[0], split))
        captions = [one.captions[0] for one in stored]
        text = embeddings.lookup(captions, config.text.length)
        count = SAMPLES if split == "train" else len(stored)
        chosen = choose_captions([one.captions for one in stored], count, seed=0)
        arrays |= {
            f"{split}_images": np.stack([prepare_centre(one, RESOLUTION).pixels for one in stored]),
            f"{split}_captions": np.array(captions),
            f"{split}_text": np.asarray(text.embeddings, np.float32),
            f"{split}_mask": np.asarray(text.mask),
            f"{split}_drawn": np.asarray(chosen.images),
        }
    np.savez(folder / "data.npz", **arrays)


def run(module: str, *arguments: str) -> float:
    """Runs a process to its end; returns the seconds that the processor worked for it.

    Raises:
        SystemExit: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, "-m", module, *arguments])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode not in (0, ExitStatus.PREEMPTED):
        sys.exit(f"{module} ended with {ended.returncode}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train_ours(folder: Path, config: ConfigDict) -> float:
    """Trains ours to its end; returns the seconds of the processor over all calls."""
    kept = folder / "ours.json"
    found = json.loads(kept.read_text()) if kept.exists() else {"seconds": 0.0}
    if not found.get("done"):
        parameters = total_of(count_parameters(abstract_params(build_stage(config))))
        training, workdir = config.training, folder / "ours"
        changed = {
            "data.data_dir": config.data.data_dir,
            "training.steps": training.steps,
            "training.preview_every": training.preview_every,
            "optimizer.decay_steps": config.optimizer.decay_steps,
        }
        flags = [f"--config.{key}={value}" for key, value in changed.items()]
        seconds = run(
            "imagen_jax.train", "--config=configs/quickstart.py:base", f"--workdir={workdir}", *flags
        )  # fmt: skip
        found = {"seconds": found["seconds"] + seconds, "parameters": parameters}
        found["done"] = bool(read_metrics(workdir)) and read_metrics(workdir)[-1]["step"] == training.steps
        write_json(kept, found)
    if not found["done"]:
        sys.exit(ExitStatus.PREEMPTED)
    return found["seconds"]


def draw_ours(folder: Path) -> None:
    """Draws with ours, unless that has been done."""
    cascade = load_cascade([folder / "ours"], {"steps": [SAMPLING_STEPS]}, batch_size=32)
    data = read_data(folder)
    for split in SPLITS:
        path = folder / f"ours_{split}.npy"
        if not path.exists():
            captions = [str(data[f"{split}_captions"][number]) for number in data[f"{split}_drawn"]]
            np.save(path, np.concatenate([to_pixels(stages[-1]) for stages in cascade.draw(captions)]))


def measure(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Recall and distance of each side on each split."""
    data = read_data(folder)
    network = FEATURE_NETWORKS[NETWORK]()

    def features_of(images: Sequence[HostPixels]) -> np.ndarray:
        return extract_features(network, images).pooled

    real = {split: features_of(data[f"{split}_images"]) for split in SPLITS}
    together = np.concatenate([real[split] for split in SPLITS])
    first = {"train": 0, "validation": len(real["train"])}
    found: dict[str, dict[str, dict[str, float]]] = {side: {} for side in SIDES}
    for side in SIDES:
        for split in SPLITS:
            sampled = features_of(np.load(folder / f"{side}_{split}.npy"))
            recall = measure_caption_recall(sampled, data[f"{split}_drawn"] + first[split], together)
            distance = frechet_distance(moments_of(sampled), moments_of(real[split]))
            found[side][split] = {"recall": recall.recall, "chance": recall.chance, "distance": distance}
    return found


def show(folder: Path) -> None:
    """Writes a picture of captions' drawings beside what both sides make of them."""
    data = read_data(folder)
    images: list[HostPixels] = []
    labels: list[str] = []
    for split in SPLITS:
        chosen = data[f"{split}_drawn"]
        indices = np.linspace(0, len(chosen) - 1, SHOWN).round().astype(int)
        for index in indices:
            number = chosen[index]
            row = [data[f"{split}_images"][number], *(np.load(folder / f"{side}_{split}.npy")[index] for side in SIDES)]
            images += [one.repeat(3, axis=0).repeat(3, axis=1) for one in row]
            labels += [str(data[f"{split}_captions"][number]), *(TITLES[side] for side in SIDES)]
    save_png(folder / "equal_cost.png", labelled_grid(np.stack(images), labels, 12), {})


def write_table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    ours, peer = (results["measured"][side] for side in SIDES)
    minutes = {side: results[f"{side}_seconds"] / 60 for side in SIDES}
    seconds = {side: results[f"{side}_seconds"] / results[f"{side}_steps"] for side in SIDES}
    lines = [
        "# Quality at equal cost",
        "",
        f"Measured on {os.cpu_count()} cores of {processor()}, {versions()}. The same OpenMoji drawings at "
        f"{RESOLUTION} px, the same MiniLM embeddings, batches of {BATCH}; {minutes['ours']:.1f} minutes of the "
        f"processor for ours and {minutes['peer']:.1f} for imagen-pytorch, with the defaults of its `Unet`, `Imagen` "
        f"and `ImagenTrainer`, and the width ({results['peer']['width']}) that gives it as many parameters. All "
        f"pictures are drawn in {SAMPLING_STEPS} steps.",
        "",
        "```sh",
        "python -m tests.benchmarks.equal_cost FOLDER",
        "```",
        "",
        "| | imagen-jax | imagen-pytorch | better |",
        "|---|---|---|---|",
        f"| parameters | {results['ours_parameters']:,} | {results['peer']['parameters']:,} | |",
        f"| steps of {BATCH} images | {results['ours_steps']:,} | {results['peer_steps']:,} | |",
        f"| seconds of the processor a step, compiling with it | {seconds['ours']:.1f} | {seconds['peer']:.1f} | |",
    ]
    for split, name in NAMES.items():
        samples = f"{results['samples'][split]} {name} captions"
        chance = ours[split]["chance"]
        pair = [side[split]["recall"] for side in (ours, peer)]
        better = TITLES["ours" if pair[0] > pair[1] else "peer"] if pair[0] != pair[1] else "neither"
        lines.append(
            f"| caption recall@10 of {samples} (chance {chance:.4f}) | {pair[0]:.3f} | {pair[1]:.3f} | {better} |"
        )
        pair = [side[split]["distance"] for side in (ours, peer)]
        better = TITLES["ours" if pair[0] < pair[1] else "peer"]
        lines.append(f"| Fréchet distance of these to the {name} drawings | {pair[0]:.1f} | {pair[1]:.1f} | {better} |")
    return "\n".join([*lines, "", READ_WITH_CARE, "", "![the same captions](equal_cost.png)", ""])


def compare(folder: Path, steps: int) -> dict[str, Any]:
    """Trains, draws and measures whatever is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(folder, steps)
    write_data(folder, config)
    seconds = train_ours(folder, config)
    if not (folder / "peer.json").exists():
        run("tests.benchmarks.equal_cost_torch", str(folder), "size")
    done = folder / "peer_progress.json"
    if not done.exists() or json.loads(done.read_text())["seconds"] < seconds:
        run("tests.benchmarks.equal_cost_torch", str(folder), "train", str(seconds))
    draw_ours(folder)
    if not (folder / "peer_validation.npy").exists():
        run("tests.benchmarks.equal_cost_torch", str(folder), "draw")
    progress = json.loads(done.read_text())
    show(folder)
    return {
        "ours_parameters": json.loads((folder / "ours.json").read_text())["parameters"],
        "ours_seconds": seconds,
        "ours_steps": steps,
        "peer": json.loads((folder / "peer.json").read_text()),
        "peer_seconds": progress["seconds"],
        "peer_steps": progress["steps"],
        "samples": {split: len(read_data(folder)[f"{split}_drawn"]) for split in SPLITS},
        "measured": measure(folder),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1550)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    enable_compilation_cache()
    results = compare(options.folder, options.steps)
    write_json(options.folder / "results.json", results)
    table = write_table(results)
    (options.folder / "equal_cost.md").write_text(table)
    print(table)
    if options.write:
        for name in ("equal_cost.md", "equal_cost.png"):
            Path(__file__).with_name(name).write_bytes((options.folder / name).read_bytes())


if __name__ == "__main__":
    main()
