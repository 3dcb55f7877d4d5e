"""Exports a trained stage as safetensors and a JSON config.

    imagen-jax export_weights --workdir=runs/base --out=exported [--format=imagen_jax] [--dtype=bfloat16]

``weight_formats.formats`` lists the formats; ``imagen_jax import_weights`` reads them. Every command with ``--stages``
also accepts a folder in the format imagen_jax.
"""

from absl import flags

from imagen_jax.cascade.network_flag import read_network
from imagen_jax.errors import UserError
from imagen_jax.runtime.main import run_main
from imagen_jax.storage.paths import to_path
from imagen_jax.weight_formats.formats import export_stage

FORMAT = flags.DEFINE_string(
    "format", "imagen_jax", "imagen_jax (any stage) or deepfloyd_if (a stage imported from it)."
)
DTYPE = flags.DEFINE_string(
    "dtype", "float32", "Dtype of the written parameters: float32, or bfloat16 for half the size."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of the stage.", required=True)
OUT = flags.DEFINE_string("out", None, "Output folder.", required=True)


def main() -> None:
    """Exports ``--workdir`` into ``--out``."""
    if to_path(WORKDIR.value) == to_path(OUT.value):
        raise UserError("--out is the same folder as --workdir: choose another --out")
    export_stage(FORMAT.value, to_path(WORKDIR.value), to_path(OUT.value), DTYPE.value, read_network())
    print(f"exported {WORKDIR.value} to {OUT.value}")


if __name__ == "__main__":
    run_main(main, "give the stage as --workdir=…")
