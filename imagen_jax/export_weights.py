"""Writes a trained stage as safetensors with a JSON config, for use elsewhere.

    python -m imagen_jax.export_weights --workdir=runs/base --out=exported [--format=imagen_jax]

| format | what is written |
|---|---|
| imagen_jax | the stage's config and its averaged parameters by our names: any stage, see ``stage_files`` |
| deepfloyd_if | tensors by diffusers' names, which its UNet2DConditionModel loads: a stage imported from DeepFloyd IF |

``imagen_jax.import_weights`` reads both.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from imagen_jax import deepfloyd_if, stage_files
from imagen_jax.cascades import TrainedStage, load_stage
from imagen_jax.command_line import run_main
from imagen_jax.errors import UserError, choose

FORMAT = flags.DEFINE_string("format", "imagen_jax", "imagen_jax or deepfloyd_if.")
WORKDIR = flags.DEFINE_string("workdir", None, "The stage.", required=True)
OUT = flags.DEFINE_string("out", None, "The folder to write.", required=True)


def export_as_ours(stage: TrainedStage, folder: Path) -> None:
    """Writes any stage."""
    stage_files.write_files(folder, stage.config.to_dict(), stage_files.name_params(stage.params))


FORMATS: dict[str, Callable[[TrainedStage, Path], None]] = {
    "imagen_jax": export_as_ours,
    "deepfloyd_if": deepfloyd_if.export_stage,
}


def main(arguments: Sequence[str]) -> None:
    """Exports."""
    if arguments[1:]:
        raise UserError(f"{arguments[1]!r} is no flag: give the stage as --workdir=…")
    export_stage(FORMAT.value, Path(WORKDIR.value), Path(OUT.value))


def export_stage(name: str, workdir: Path, folder: Path) -> None:
    """Writes the stage in ``workdir`` into ``folder``.

    Raises:
        UserError: there is no such stage, the format has no place for it, or the folder can't be written to.
    """
    export = choose(FORMATS, name, "format")
    export(load_stage(workdir), folder)
    print(f"{workdir} is written to {folder}")


if __name__ == "__main__":
    run_main(main)
