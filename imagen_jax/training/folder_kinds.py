"""Checks whether a folder can be a training workdir: it must be empty or contain a run of the same kind.

Other outputs of this package use the same file names, so training would mix its files with theirs.
"""

from collections.abc import Mapping
from typing import Any

from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, absolute, files_in, in_bucket, to_path
from imagen_jax.training.checkpoints.folder import is_complete, list_steps
from imagen_jax.training.workdir import config_path, has_begun

WEIGHTS = "to train them on, choose another --workdir and set --config.training.init_from to this folder"

KINDS = {
    "stage": "imagen_jax train",
    "classifier": "imagen_jax train_classifier",
    "clip": "imagen_jax train",
    "codes": "imagen_jax train",
}
"""Config sections that identify the kind of training, and the command that runs it."""

OTHERS = {
    "manifest.json": "a prepared data set",
    "job.json": "a data set that is being prepared",
    "sampling.json": "images from imagen_jax.sample",
    "report.json": "an evaluation",
    "sweep.json": "an evaluation",
    "captions.jsonl": "an evaluation",
    "model_index.json": "a pipeline of diffusers",
}
"""Files that identify a folder which is not a training workdir, and a description of its content."""


def check_trainable(workdir: Path, kind: str, data: Mapping[str, Any]) -> None:
    """Checks that a training can start or resume in a folder; changes nothing.

    Args:
        workdir: the folder; it may be missing.
        kind: kind of training, a key of ``KINDS``.
        data: section of the config that describes the training data.

    Raises:
        UserError: the folder is a file, contains weights without the optimizer's state, contains anything other than a
            training of this kind, or lies among the training images.
    """
    if workdir.is_file():
        raise UserError(f"the workdir {workdir} is a file: choose another --workdir")
    if data["source"] == "folder" and data["options"].get("folder"):
        check_not_among_images(workdir, data["options"]["folder"])
    files = {file.name for file in files_in(workdir)}
    begun = has_begun(workdir)
    if begun:
        check_has_state(workdir)
    elif any(name.endswith(".safetensors") for name in files):
        raise UserError(f"{workdir} contains exported weights: {WEIGHTS}")
    if config_path(workdir).name in files:
        check_kind(workdir, kind)
    elif not begun:
        content = next((what for name, what in OTHERS.items() if name in files), None)
        if content is not None:
            raise UserError(f"{workdir} contains {content}, so training can't start there: choose another --workdir")


def check_not_among_images(workdir: Path, images: str | Path) -> None:
    """Checks that a workdir lies outside a folder of images, which would otherwise include the run's previews.

    Raises:
        UserError: the workdir lies in the folder of images.
    """
    folder = to_path(images).expanduser()
    if in_bucket(folder) == in_bucket(workdir) and absolute(workdir).is_relative_to(absolute(folder)):
        raise UserError(f"{workdir} is inside the folder of the images, {folder}: choose a --workdir outside it")


def check_has_state(workdir: Path) -> None:
    """Checks that a run can resume. Imports and checkpoints kept only for sampling have no optimizer state.

    Raises:
        UserError: no checkpoint has the optimizer's state.
    """
    if not has_state(workdir):
        raise UserError(f"{workdir} contains weights without the optimizer's state, such as an import: {WEIGHTS}")


def has_state(workdir: Path) -> bool:
    """Returns whether a training can resume from a workdir's checkpoints; True if all of them are damaged.

    Args:
        workdir: a folder with checkpoints.
    """
    whole = [path for path in list_steps(workdir / "checkpoints") if is_complete(path)]
    return not whole or any((path / "state").exists() for path in whole)


def check_kind(workdir: Path, kind: str) -> None:
    """Checks that the config in a folder belongs to a training of this kind.

    Raises:
        UserError: the config can't be read, or belongs to a training of another kind or to another program.
    """
    path = config_path(workdir)
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}): restore it, or choose another --workdir") from None
    sections = {name for name, value in config.items() if isinstance(value, dict)} if isinstance(config, dict) else ()
    if {kind, "training"} <= set(sections):
        return
    for other in KINDS.keys() & sections:
        if other != kind and "training" in sections:
            raise UserError(
                f"{workdir} is the workdir of a {other}, which {KINDS[other]} trains: choose another --workdir"
            )
    if "stage" in sections:
        raise UserError(f"{workdir} contains imported weights: {WEIGHTS}")
    raise UserError(f"{path} is not a training config of this package: choose another --workdir")
