"""Exports a trained stage as safetensors and a JSON config.

    python -m imagen_jax export_weights --workdir=runs/base --out=exported [--format=imagen_jax] [--dtype=bfloat16]

``weight_formats.formats`` lists the formats; ``imagen_jax import_weights`` reads them. Every command with ``--stages``
also accepts a folder in the format imagen_jax.
"""

from absl import flags

from imagen_jax.errors import UserError
from imagen_jax.runtime.main import run_main
from imagen_jax.storage.paths import to_path
from imagen_jax.weight_formats.formats import export_stage

FORMAT = flags.DEFINE_string("format", "imagen_jax", "imagen_jax (any stage) or deepfloyd_if (one imported from it).")
DTYPE = flags.DEFINE_string("dtype", "float32", "Of the parameters as written: float32, or bfloat16 in half the bytes.")
WORKDIR = flags.DEFINE_string("workdir", None, "The stage.", required=True)
OUT = flags.DEFINE_string("out", None, "The folder to write.", required=True)


def main() -> None:
    """Exports ``--workdir`` into ``--out``."""
    if to_path(WORKDIR.value) == to_path(OUT.value):
        raise UserError("--out is the same folder as --workdir: choose another --out")
    export_stage(FORMAT.value, to_path(WORKDIR.value), to_path(OUT.value), DTYPE.value)
    print(f"{WORKDIR.value} is written to {OUT.value}")


if __name__ == "__main__":
    run_main(main, "give the stage as --workdir=…")
