"""Imports weights into a stage's workdir, and exports stages; one registry of formats serves both.

    folder -> config and parameters -> workdir (config.json, a checkpoint) -> files in another folder

| format | folder |
|---|---|
| deepfloyd_if | a DeepFloyd IF pipeline, stage I or II, saved by diffusers, or its U-Net; exports only the U-Net |
| karlo | a stage of a Karlo pipeline saved by diffusers; ``karlo_pipeline`` takes the whole pipeline |
| imagen_jax | the stage's config and its parameters under our names, see ``cascade.checkpoint_export`` |
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from imagen_jax.array_types import DTYPES
from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.checkpoint_export import NO_CHOICES, ImportChoices
from imagen_jax.cascade.experiment import ModelConfig
from imagen_jax.cascade.image_files import make_folder
from imagen_jax.cascade.loading import TrainedStage, load_params, plan_stage
from imagen_jax.cascade.sampling_settings import make_settings
from imagen_jax.cascade.text_encoder import check_encoder, load_encoder, load_tokenizer
from imagen_jax.encoders.clip_text import ClipTextEncoder
from imagen_jax.encoders.encoder import TextEncoder
from imagen_jax.errors import UserError, lookup
from imagen_jax.models import Network
from imagen_jax.storage.folder_locks import locked
from imagen_jax.storage.paths import Path, remove_folder, write_whole
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.folder_kinds import has_state
from imagen_jax.training.workdir import has_begun, keep_config
from imagen_jax.weight_formats import deepfloyd_if, karlo
from imagen_jax.weights.written_folder import STORED


class Format(NamedTuple):
    """The functions that read and write one format.

    Attributes:
        notice: text printed before anything is written; empty for none.
        read_config: ``(source, choices) -> config``.
        read_params: ``(source, config) -> parameters``.
        read_step: ``(source) -> number of training updates``.
        check_network: ``(network, name of the stage) -> None``; raises ``UserError`` if the format can't hold it.
        write: ``(stage, folder, dtype of the files) -> None``.
    """

    notice: str
    read_config: Callable[[Path, ImportChoices], ModelConfig]
    read_params: Callable[[Path, ModelConfig], Any]
    read_step: Callable[[Path], int]
    check_network: Callable[[Network, str], None]
    write: Callable[[TrainedStage, Path, str], None]


def write_stage(trained: TrainedStage, folder: Path, dtype: str) -> None:
    """Exports any stage in our own format.

    Args:
        trained: the stage.
        folder: the output folder, created if missing.
        dtype: dtype of the stored parameters, a key of ``weights.written_folder.STORED``.
    """
    checkpoint_export.write(trained.config, trained.params, trained.step, folder, dtype)


def allow_any(network: Network, name: str) -> None:
    """Accepts any network, because our own format holds them all."""


FORMATS = {
    "deepfloyd_if": Format(
        deepfloyd_if.LICENCE_NOTICE,
        deepfloyd_if.read_config,
        deepfloyd_if.read_params,
        lambda source: 0,
        deepfloyd_if.check_network,
        deepfloyd_if.write,
    ),
    karlo.FORMAT: Format(
        karlo.LICENCE_NOTICE,
        karlo.read_config,
        karlo.read_params,
        lambda source: 0,
        karlo.check_network,
        karlo.write,
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


def import_stage(
    name: str, source: Path, workdir: Path, choices: ImportChoices = NO_CHOICES, quiet: bool = False
) -> None:
    """Imports the weights in ``source`` into ``workdir``, with a config for sampling.

    The config is written last, so an interrupted import leaves none and can be restarted.

    Args:
        name: the format, a key of ``FORMATS``.
        source: the folder of the weights.
        workdir: the workdir to create.
        choices: options that the folder of weights does not determine.
        quiet: whether the licence's notice is left out, because it has been printed.

    Raises:
        UserError: the format or a dtype is unknown, ``workdir`` already contains a stage, or the weights or their text
            encoder are damaged, incomplete or of another network.
    """
    form = lookup(FORMATS, name, "format")
    for dtype in filter(None, (choices.dtype, choices.text_dtype)):
        lookup(DTYPES, dtype, "dtype")
    if (workdir / "config.json").exists() or (has_begun(workdir) and has_state(workdir)):
        raise UserError(f"{workdir} already contains a stage: choose another --out")
    config = form.read_config(source, choices)
    fingerprints = config.fingerprints
    if config.stage.tokens:
        fingerprints["tokenizer"] = load_tokenizer(config.text, fingerprints.get("tokenizer"), str(source)).name
    encoder = None
    if config.text.encoder:
        encoder = load_encoder(config.text)
        if choices.text_dtype is None:
            check_encoder(encoder, fingerprints.get("text_encoder"), str(source))
        fingerprints["text_encoder"] = encoder.name
    make_settings(config.sampling.to_dict())
    if form.notice and not quiet:
        print(form.notice, flush=True)
    params = form.read_params(source, config)
    make_folder(workdir)
    with locked(workdir, "--out"):
        if has_begun(workdir):
            # These checkpoints are from an interrupted import, perhaps of another source.
            remove_folder(workdir / "checkpoints")
        with CheckpointStore(workdir / "checkpoints") as checkpoints:
            checkpoints.save_weights(form.read_step(source), params)
        copy_licences(source, workdir)
        keep_config(workdir, config.to_dict(), fingerprints | name_image_encoder(config, encoder))


def name_image_encoder(config: ModelConfig, encoder: TextEncoder | None) -> dict[str, str]:
    """Returns the name of a stage's image embeddings, if they are of the CLIP whose text encoder it has."""
    if isinstance(encoder, ClipTextEncoder) and (config.stage.vector or config.stage.image_vector):
        return {"image_encoder": f"{encoder.clip}-{config.embedding.form}"}
    return {}


def copy_licences(source: Path, folder: Path) -> None:
    """Copies the licence files in ``source``, and for a part of a pipeline also those in the pipeline's folder."""
    is_part = source.name == "unet" or (source.parent / "model_index.json").is_file()
    for origin in (source.parent, source) if is_part else (source,):
        for path in sorted([*origin.glob("LICENSE*"), *origin.glob("LICENCE*")]):
            if path.is_file():
                write_whole(folder / path.name, path.read_bytes())


def export_stage(
    name: str,
    workdir: Path,
    folder: Path,
    dtype: str = "float32",
    network: type[Network] | None = None,
    quiet: bool = False,
) -> None:
    """Exports the stage in ``workdir`` into ``folder``.

    Args:
        name: the format, a key of ``FORMATS``.
        workdir: the stage's workdir or exported folder.
        folder: the output folder, created if missing.
        dtype: dtype of the stored parameters, a key of ``weights.written_folder.STORED``.
        network: the class of the stage's network, if its config names one of the user's own.
        quiet: whether the licence's notice is left out, because it has been printed.

    Raises:
        UserError: there is no such format, stage or dtype, the format can't hold the stage's network, or the folder
            already contains a model or can't be written to.
    """
    form = lookup(FORMATS, name, "format")
    lookup(STORED, dtype, "dtype")
    if (folder / "config.json").exists():
        raise UserError(f"{folder} already contains a model: choose another --out")
    plan = plan_stage(workdir, network=network)
    form.check_network(plan.stage.network, plan.name)
    stage = load_params(plan)
    if form.notice and not quiet:
        print(form.notice, flush=True)
    make_folder(folder)
    with locked(folder, "--out"):
        form.write(stage, folder, dtype)
        copy_licences(workdir, folder)
