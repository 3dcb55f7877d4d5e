"""Runs DrawBench: samples images of each prompt and writes a page that compares them with other models' images.

    prompts -> OUT/pictures, with prompts.csv -> OUT/report.html, which also shows the images of other models

``imagen_jax rate`` lets people compare two such folders.
"""

from collections.abc import Sequence
from typing import Any

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.requests import requests_of
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.evaluation import PICTURES, describe_weights
from imagen_jax.evaluation.protocols.references import hash_lines
from imagen_jax.evaluation.protocols.sampled_images import StepBar, sample_images
from imagen_jax.evaluation.reports.drawbench import DrawBenchPrompt, own_prompts, read_drawbench, write_prompts
from imagen_jax.evaluation.reports.report import describe_machine, write_report
from imagen_jax.evaluation.reports.side_by_side import ModelImages, images_by_prompt, write_side_by_side
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, to_path

PROMPTS = "prompts.csv"


def read_prompts(path: str) -> list[DrawBenchPrompt]:
    """Reads prompts from a file of DrawBench; returns the bundled prompts if ``path`` is empty.

    Raises:
        UserError: the file can't be read, or holds no prompts.
    """
    return read_drawbench(to_path(path)) if path else own_prompts()


def check_beside(beside: Sequence[str]) -> None:
    """Checks that the folders of other evaluations exist.

    Raises:
        UserError: a folder does not exist.
    """
    for other in beside:
        if not to_path(other).is_dir():
            raise UserError(f"--beside={other} is not a folder: name the --out of another evaluation")


def sample_drawbench(
    cascade: Cascade, steps: StepBar, prompts: Sequence[DrawBenchPrompt], out: Path, seed: int, samples: int
) -> dict[str, Any]:
    """Samples the missing images and returns the report. Every process must call it.

    Args:
        cascade: the cascade; its ``on_step`` is ``steps``.
        steps: progress bar of the denoising steps.
        prompts: distinct prompts.
        out: folder of the evaluation.
        seed: seed of the noise.
        samples: number of images of each prompt.

    Raises:
        UserError: the folder holds other images, or sampling raises the error.
    """
    texts = [prompt.prompt for prompt in prompts]
    digest = hash_lines(texts)
    sampled = sample_images(
        cascade,
        steps,
        requests_of(texts, samples),
        out / PICTURES,
        seed,
        {"prompts_sha256": digest, "samples": samples},
    )
    return {
        "title": "DrawBench",
        "prompts": {"count": len(prompts), "sha256": digest, "categories": len({one.category for one in prompts})},
        "pictures": {"count": len(sampled.files), "of_each_prompt": samples, "seed": seed},
        "sampling": cascade.describe(),
        "weights": describe_weights(cascade),
        "machine": describe_machine(),
    }


def write_bench(
    out: Path, report: dict[str, Any], prompts: Sequence[DrawBenchPrompt], name: str, beside: Sequence[str]
) -> None:
    """Writes ``prompts.csv``, ``report.json`` and ``report.html``.

    Args:
        out: folder of the evaluation.
        report: result of ``sample_drawbench``.
        prompts: the sampled prompts.
        name: name of this model on the page.
        beside: folders of other evaluations, whose images the page also shows.

    Raises:
        UserError: a folder does not exist or holds no usable images, there is no image of these prompts, or a file
            can't be written.
    """
    # `imagen_jax rate` reads the categories from the folder of the images.
    write_prompts(out / PICTURES / PROMPTS, prompts)
    write_report(out / "report.json", report)
    check_beside(beside)
    models = [ModelImages(name, images_by_prompt(out / PICTURES), report["sampling"])]
    for other in beside:
        folder = to_path(other)
        images = folder / PICTURES
        found = images_by_prompt(images if images.is_dir() else folder)
        models.append(ModelImages(folder.name, found, settings_of(folder / "report.json")))
    write_side_by_side(out / "report.html", models, prompts)


def settings_of(report: Path) -> dict[str, Any]:
    """Reads the sampling settings from another evaluation's report; returns an empty dict if that fails."""
    try:
        settings = read_json(report)["sampling"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}
