"""How fast pictures are sampled: against diffusers' IFPipeline, and how much of the time is spent outside the loop.

From the repository's root::

    python -m tests.benchmarks.sample_images against_diffusers FOLDER   # one network, both programs, in turn, medians
    python -m tests.benchmarks.sample_images outside --stages=BASE,SUPER_RESOLUTION

``against_diffusers`` needs the extra ``parity``. It writes a DeepFloyd IF base of middle size with random weights into
FOLDER as diffusers does, imports it as ``imagen_jax import_weights`` does, and draws the same prompts with the same
steps and guidance from both, the text encoded beforehand. ``outside`` draws with a trained cascade as
``imagen_jax.sample`` does, writes PNG files, and counts the time that no compiled program ran.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

from imagen_jax.cascade.cascade import Cascade, load_cascade
from imagen_jax.cascade.checkpoint_export import ImportChoices
from imagen_jax.cascade.image_folder import PictureFolder, draw_missing
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.storage.paths import to_path
from imagen_jax.weight_formats.formats import import_stage
from tests.reference.deepfloyd_models import MIDDLE
from tests.reference.deepfloyd_pipelines import write_if_pipeline

GUIDANCE = 7.0


def write_pipeline(folder: Path):
    """Makes diffusers' pipeline of the network, and writes it."""
    import torch

    torch.manual_seed(0)
    return write_if_pipeline(MIDDLE, folder / "t5", folder / "diffusers")


def against_diffusers(folder: Path, pictures: int, steps: int, rounds: int) -> None:
    """Draws in turn, and prints medians and ratios."""
    import torch

    pipeline = write_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    import_stage("deepfloyd_if", to_path(folder / "diffusers"), to_path(folder / "ours"), ImportChoices())
    prompts = [f"red apple {number}" for number in range(pictures)]
    positive, negative = pipeline.encode_prompt(prompts, device="cpu")
    cascade = load_cascade([folder / "ours"], {"steps": steps, "guidance": GUIDANCE}, pictures)
    at_once = cascade.adjusted(batched_guidance=True)

    def theirs() -> None:
        pipeline(prompt_embeds=positive, negative_prompt_embeds=negative, num_inference_steps=steps,
                 guidance_scale=GUIDANCE, output_type="np")  # fmt: skip

    ways: dict[str, Callable[[], object]] = {
        "diffusers": theirs,
        "ours": lambda: next(cascade.draw(prompts)),
        "ours, batched_guidance": lambda: next(at_once.draw(prompts)),
    }
    first = {name: seconds_of(way) for name, way in ways.items()}
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(seconds_of(way))
    parameters = sum(tensor.numel() for tensor in pipeline.unet.parameters())
    print(f"{parameters / 1e6:.0f}M parameters, {pictures} pictures, {steps} steps, {torch.get_num_threads()} threads")
    base = statistics.median(seconds["diffusers"])
    for name, of_way in seconds.items():
        median = statistics.median(of_way)
        print(
            f"| {name} | {pictures / median:.3f} images/s | {base / median:.2f} | {min(of_way):.2f} to "
            f"{max(of_way):.2f} s | first {first[name]:.1f} s |"
        )


def seconds_of(act: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def outside(workdirs: list[str], pictures: int, batch_size: int, steps: str) -> None:
    """Draws as ``imagen_jax.sample`` does, and prints the share of the time that no compiled program ran."""
    overrides = {"steps": [int(one) for one in steps.split(",")]} if steps else {}
    cascade = load_cascade([to_path(workdir) for workdir in workdirs], overrides, batch_size)
    inside = [0.0]
    make_program = Cascade._program

    def timed(self: Cascade, *which):
        program = make_program(self, *which)

        def run(*inputs):
            jax.block_until_ready(inputs)
            began = time.perf_counter()
            images = jax.block_until_ready(program(*inputs))
            inside[0] += time.perf_counter() - began
            return images

        return run

    Cascade._program = timed
    requests = [ImageRequest(f"red apple {number}") for number in range(pictures)]
    for _ in range(2):
        inside[0] = 0.0
        with tempfile.TemporaryDirectory() as place:
            folder = PictureFolder(to_path(place), requests, 0, cascade.batch_size, "png", {})
            began = time.perf_counter()
            draw_missing(cascade, folder, folder.missing(), seed=0)
            whole = time.perf_counter() - began
    results = {
        "pictures": pictures,
        "batch_size": cascade.batch_size,
        "stages": cascade.describe(),
        "seconds": whole,
        "share_outside": 1 - inside[0] / whole,
    }
    print(json.dumps(results, indent=2))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["against_diffusers", "outside"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--stages", default="runs/quickstart/base,runs/quickstart/super_resolution")
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", default="")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.what == "against_diffusers":
        against_diffusers(options.folder, options.pictures, int(options.steps or 10), options.rounds)
    else:
        outside(options.stages.split(","), options.pictures, options.batch_size, options.steps)


if __name__ == "__main__":
    main()
