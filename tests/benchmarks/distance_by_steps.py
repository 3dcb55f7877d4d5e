"""How far a trained cascade's pictures are from the training images, by sampler and number of steps.

From the repository's root, after ``bash launch/quickstart.sh``, or with ``--stages`` of other workdirs::

    python -m tests.benchmarks.distance_by_steps measure FOLDER
    python -m tests.benchmarks.distance_by_steps plot FOLDER

The base's sampler and steps vary; the other stages keep their own settings. The pictures' captions and noise are the
same for all. ``measure`` keeps each point as soon as it is there, and continues where it was cut. The distance is the
Fréchet distance of EfficientNet-Lite0 features (``evaluation/frechet.py``), not FID.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.image_files import labelled_grid, save_png, to_pixels
from imagen_jax.encoders.efficientnet_lite0 import load_efficientnet_lite0
from imagen_jax.encoders.feature_networks import extract_features
from imagen_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from imagen_jax.evaluation.protocols.references import open_training_data
from imagen_jax.storage.paths import to_path

REFERENCE = ("ancestral", "uniform", 256)
SAMPLERS = {
    # Name of the curve: sampler, spacing, times that a step asks the network.
    "ancestral": ("ancestral", "uniform", 1),
    "ddim": ("ddim", "uniform", 1),
    "dpm_solver_2m": ("dpm_solver_2m", "uniform", 1),
    "dpm_solver_2m, log_snr": ("dpm_solver_2m", "log_snr", 1),
    "dpm_solver_2m_sde": ("dpm_solver_2m_sde", "uniform", 1),
    "heun": ("heun", "uniform", 2),
    "unipc": ("unipc", "uniform", 1),
}
EVALUATIONS = (20, 10, 40, 5)
"""Calls of the network for each picture, at most; Heun's last step makes one call."""

SHOWN = 8


def list_points() -> list[tuple[str, str, str, int]]:
    """Curve, sampler, spacing, steps; the most wanted first."""
    points = [("ancestral", *REFERENCE)]
    for evaluations in EVALUATIONS:
        for curve, (sampler, spacing, calls) in SAMPLERS.items():
            points.append((curve, sampler, spacing, max(1, evaluations // calls)))
    return points


def measure(folder: Path, workdirs: list[str], pictures: int, batch_size: int, guidance: float) -> None:
    """Draws and measures every point that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    cascade = load_cascade([Path(workdir) for workdir in workdirs], batch_size=batch_size)
    data = open_training_data(to_path(workdirs[0]))
    captions = [of_image[0] for of_image in data.captions]
    picked = np.random.default_rng(0).permutation(len(captions))[:pictures]
    wanted = [captions[index] for index in picked]
    network = load_efficientnet_lite0()
    size = cascade.stages[-1].resolution
    everything = (data.image(number, size) for number in range(len(captions)))
    originals = extract_features(network, everything, len(captions)).pooled
    reference = moments_of(originals)
    about = {
        "pictures": pictures,
        "training_images": len(captions),
        "guidance": guidance,
        "stages": [f"{Path(one.name).name}, {one.step} steps of training" for one in cascade.trained],
        "of_as_many_training_images": frechet_distance(moments_of(originals[picked]), reference),
    }
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    for curve, sampler, spacing, steps in tqdm(list_points(), desc="Points", dynamic_ncols=True):
        kept = folder / f"{curve.replace(', ', '-')}-{steps}.json"
        if kept.exists():
            continue
        others = [one.config.sampling for one in cascade.trained[1:]]
        adjusted = cascade.adjusted(
            sampler=[sampler, *(one.sampler for one in others)],
            spacing=[spacing, *(one.spacing for one in others)],
            steps=[steps, *(one.steps for one in others)],
            guidance=[guidance, *(one.guidance for one in others)],
        )
        began = time.perf_counter()
        images = to_pixels(np.concatenate([stages[-1] for stages in adjusted.draw(wanted, seed=0)]))
        seconds = time.perf_counter() - began
        labels = [f"{caption}, {curve} {steps}" for caption in wanted[:SHOWN]]
        save_png(to_path(kept.with_suffix(".png")), labelled_grid(images[:SHOWN], labels, SHOWN), {})
        distance = frechet_distance(moments_of(extract_features(network, images, len(images)).pooled), reference)
        point = {"curve": curve, "sampler": sampler, "spacing": spacing, "steps": steps,
                 "evaluations": count_evaluations(curve, steps), "distance": distance, "seconds": seconds}  # fmt: skip
        kept.write_text(json.dumps(point, indent=2) + "\n")
        tqdm.write(f"{curve}, {steps} steps: {distance:.2f} ({seconds:.0f} s)")


def count_evaluations(curve: str, steps: int) -> int:
    """Calls of the network for one picture, without guidance."""
    calls = SAMPLERS[curve][2]
    return calls * steps - (calls - 1)


def plot(folder: Path) -> None:
    """Writes ``distance_by_steps.png`` and prints the table."""
    import matplotlib.pyplot as plt

    about = json.loads((folder / "about.json").read_text())
    points = [json.loads(path.read_text()) for path in folder.glob("*-*.json")]
    reference = next(one["distance"] for one in points if one["steps"] == REFERENCE[2])
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    axes.axhspan(0, reference * 1.05, color="0.92", label="within 5% of 256 ancestral steps")
    rows = []
    for curve in SAMPLERS:
        of_curve = sorted((one for one in points if one["curve"] == curve), key=lambda one: one["evaluations"])
        axes.plot([one["evaluations"] for one in of_curve], [one["distance"] for one in of_curve], "o-", label=curve)
        cells = {one["steps"]: f"{one['distance']:.1f} ({one['distance'] / reference:.2f})" for one in of_curve}
        by_evaluations = [cells.get(max(1, most // SAMPLERS[curve][2]), "") for most in (*sorted(EVALUATIONS), 256)]
        rows.append(f"| {curve} | {' | '.join(by_evaluations)} |")
    axes.set(
        xscale="log", xlabel="calls of the base network for each picture", ylabel="Fréchet distance, Lite0 features"
    )
    ticks = (*sorted(EVALUATIONS), 256)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    distances = [one["distance"] for one in points]
    axes.set_ylim(0.9 * min(distances), min(max(distances), 3 * reference) * 1.05)
    axes.legend(fontsize=8, loc="lower left", ncols=2)
    figure.savefig(folder / "distance_by_steps.png", dpi=110)
    print(json.dumps(about, indent=2))
    print(f"| sampler | {' | '.join(map(str, ticks))} |\n|{'---|' * (len(ticks) + 1)}")
    print("\n".join(rows))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "plot"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stages", default="runs/quickstart/base,runs/quickstart/super_resolution")
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--guidance", type=float, default=1.0)
    options = parser.parse_args()
    if options.what == "measure":
        measure(options.folder, options.stages.split(","), options.pictures, options.batch_size, options.guidance)
    else:
        plot(options.folder)


if __name__ == "__main__":
    main()
