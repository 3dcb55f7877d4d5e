"""Weights from elsewhere into a stage's workdir, and a stage into files for elsewhere: one table of formats for both.

    folder -> config and parameters -> workdir (config.json, a checkpoint) -> files in another folder

| format | folder |
|---|---|
| deepfloyd_if | a DeepFloyd IF pipeline, stage I or II, as diffusers writes it, or its U-Net alone (which is written) |
| imagen_jax | the stage's config and its parameters by our names, see ``cascade.checkpoint_export`` |
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from imagen_jax.array_types import DTYPES
from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.checkpoint_export import NO_CHOICES, ImportChoices
from imagen_jax.cascade.image_files import make_folder
from imagen_jax.cascade.loading import TrainedStage, load_params, make_settings, plan_stage
from imagen_jax.cascade.stage import check_encoder, load_encoder
from imagen_jax.errors import UserError, lookup
from imagen_jax.models import Network
from imagen_jax.storage.folder_locks import locked
from imagen_jax.storage.paths import Path, remove_folder, write_whole
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.folder_kinds import has_state
from imagen_jax.training.workdir import FINGERPRINTS, has_begun, keep_config
from imagen_jax.weight_formats import deepfloyd_if


class Format(NamedTuple):
    """How one kind of folder is read and written.

    Attributes:
        notice: what is said before anything is written.
        read_config: ``(source, choices) -> config``.
        read_params: ``(source, config) -> parameters``.
        read_step: ``(source) -> updates made``.
        check_network: ``(network, name of the stage) -> None``: raises where a network can't be written.
        write: ``(stage, folder, dtype of the files) -> None``.
    """

    notice: str
    read_config: Callable[[Path, ImportChoices], ConfigDict]
    read_params: Callable[[Path, ConfigDict], Any]
    read_step: Callable[[Path], int]
    check_network: Callable[[Network, str], None]
    write: Callable[[TrainedStage, Path, str], None]


def write_stage(trained: TrainedStage, folder: Path, dtype: str) -> None:
    """Writes any stage by our names."""
    checkpoint_export.write(trained.config, trained.params, trained.step, folder, dtype)


def allow_any(network: Network, name: str) -> None:
    """Any network has a place in our own format."""


FORMATS = {
    "deepfloyd_if": Format(
        deepfloyd_if.LICENCE_NOTICE,
        deepfloyd_if.read_config,
        deepfloyd_if.read_params,
        lambda source: 0,
        deepfloyd_if.check_network,
        deepfloyd_if.write,
    ),
    "imagen_jax": Format(
        "",
        checkpoint_export.read_config,
        checkpoint_export.read_params,
        checkpoint_export.read_step,
        lambda network, name: None,
        write_stage,
    ),
}


def import_stage(name: str, source: Path, workdir: Path, choices: ImportChoices = NO_CHOICES) -> None:
    """Reads the weights in ``source``, and writes them and the config that samples them into ``workdir``.

    The config comes last: an import that was cut off leaves none, and may be begun again.

    Args:
        name: a key of ``FORMATS``.
        source: the folder.
        workdir: the workdir to make.
        choices: what the folder leaves open.

    Raises:
        UserError: there is a stage already, or the weights or their text encoder are damaged, incomplete or of another
            network.
    """
    form = lookup(FORMATS, name, "format")
    for dtype in filter(None, (choices.dtype, choices.text_dtype)):
        lookup(DTYPES, dtype, "dtype")
    if (workdir / "config.json").exists() or (has_begun(workdir) and has_state(workdir)):
        raise UserError(f"{workdir} holds a stage already: choose another --out")
    config = form.read_config(source, choices)
    fingerprints = dict(config.get(FINGERPRINTS, {}))
    encoder = load_encoder(config.text)
    if choices.text_dtype is None:
        check_encoder(encoder, fingerprints.get("text_encoder"), str(source))
    make_settings(config.sampling.to_dict())
    if form.notice:
        print(form.notice, flush=True)
    params = form.read_params(source, config)
    make_folder(workdir)
    with locked(workdir, "--out"):
        if has_begun(workdir):
            # Of an import that was cut off, maybe from another source.
            remove_folder(workdir / "checkpoints")
        with CheckpointStore(workdir / "checkpoints") as checkpoints:
            checkpoints.save_weights(form.read_step(source), params)
        copy_licences(source, workdir)
        keep_config(workdir, config, fingerprints | {"text_encoder": encoder.name})


def copy_licences(source: Path, folder: Path) -> None:
    """Copies the licences that lie in a folder, or beside it where it is a part of a larger one."""
    for place in (source.parent, source) if source.name == "unet" else (source,):
        for path in sorted([*place.glob("LICENSE*"), *place.glob("LICENCE*")]):
            if path.is_file():
                write_whole(folder / path.name, path.read_bytes())


def export_stage(name: str, workdir: Path, folder: Path, dtype: str = "float32") -> None:
    """Writes the stage in ``workdir`` into ``folder``.

    Args:
        name: a key of ``FORMATS``.
        workdir: the stage's.
        folder: made where there is none.
        dtype: what parameters are written in, a key of ``checkpoint_export.STORED``.

    Raises:
        UserError: there is no such stage or dtype, the format has no place for it, or the folder holds a model already
            or can't be written to.
    """
    form = lookup(FORMATS, name, "format")
    lookup(checkpoint_export.STORED, dtype, "dtype")
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a model already: choose another --out")
    plan = plan_stage(workdir)
    form.check_network(plan.stage.network, plan.name)
    stage = load_params(plan)
    if form.notice:
        print(form.notice, flush=True)
    make_folder(folder)
    with locked(folder, "--out"):
        form.write(stage, folder, dtype)
        copy_licences(workdir, folder)
