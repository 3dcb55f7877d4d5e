"""Makes a stage's workdir of weights that were trained elsewhere, ready for ``imagen_jax.sample``.

    python -m imagen_jax.import_weights --format=deepfloyd_if --source=IF-I-M-v1.0 --out=runs/if_base
    python -m imagen_jax.import_weights --format=deepfloyd_if --source=IF-II-M-v1.0 --out=runs/if_large \
        --text_encoder=IF-I-M-v1.0/text_encoder
    python -m imagen_jax.sample --stages=runs/if_base,runs/if_large --prompt="a panda" --out=pictures

| format | source |
|---|---|
| deepfloyd_if | the folder of a DeepFloyd IF pipeline, stage I or II, as diffusers writes it, or of its U-Net alone |
| imagen_jax | what ``imagen_jax.export_weights`` has written |

Only safetensors are read: a pickle could run code.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from imagen_jax import deepfloyd_if, stage_files
from imagen_jax.array_types import DTYPES
from imagen_jax.command_line import run_main
from imagen_jax.errors import UserError, choose
from imagen_jax.training.checkpoints import CheckpointStore
from imagen_jax.training.workdir import keep_config

FORMAT = flags.DEFINE_string("format", None, "deepfloyd_if or imagen_jax.", required=True)
SOURCE = flags.DEFINE_string("source", None, "Folder of the weights.", required=True)
OUT = flags.DEFINE_string("out", None, "The workdir to make.", required=True)
TEXT_ENCODER = flags.DEFINE_string("text_encoder", None, "Folder of T5, where it is not beside the U-Net.")
DTYPE = flags.DEFINE_string("dtype", "float32", "What DeepFloyd IF computes in: float32 or bfloat16.")


class Format(NamedTuple):
    """How one kind of folder is read.

    Attributes:
        notice: what is said before anything is written.
        read_config: ``(source, text_encoder, dtype) -> config``.
        read_params: ``(source, config) -> parameters``.
    """

    notice: str
    read_config: Callable[[Path, Path | None, str], ConfigDict]
    read_params: Callable[[Path, ConfigDict], Any]


FORMATS = {
    "deepfloyd_if": Format(deepfloyd_if.LICENCE_NOTICE, deepfloyd_if.read_config, deepfloyd_if.read_params),
    "imagen_jax": Format("", stage_files.read_config, stage_files.read_params),
}


def main(arguments: Sequence[str]) -> None:
    """Imports."""
    if arguments[1:]:
        raise UserError(f"{arguments[1]!r} is no flag: give the folder of the weights as --source=…")
    choose(DTYPES, DTYPE.value, "dtype")
    text_encoder = Path(TEXT_ENCODER.value) if TEXT_ENCODER.value else None
    import_stage(FORMAT.value, Path(SOURCE.value), Path(OUT.value), text_encoder, DTYPE.value)


def import_stage(
    name: str, source: Path, workdir: Path, text_encoder: Path | None = None, dtype: str = "float32"
) -> None:
    """Reads the weights in ``source``, and writes them and the config that samples them into ``workdir``.

    Raises:
        UserError: there is a run already, or the weights are damaged, incomplete or of another network.
    """
    form = choose(FORMATS, name, "format")
    if (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds a stage already: choose another --out")
    config = form.read_config(source, text_encoder, dtype)
    if form.notice:
        print(form.notice, flush=True)
    params = form.read_params(source, config)
    keep_config(workdir, config)
    for licence in sorted([*source.glob("LICENSE*"), *source.glob("LICENCE*")]):
        shutil.copy(licence, workdir)
    with CheckpointStore(workdir / "checkpoints") as checkpoints:
        checkpoints.save_weights(0, params)
    print(f"{source} is now a stage in {workdir}: draw with python -m imagen_jax.sample --stages={workdir} --prompt=…")


if __name__ == "__main__":
    run_main(main)
