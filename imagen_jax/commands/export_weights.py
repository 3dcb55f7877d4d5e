"""Exports a trained stage, or an imported CLIP, as safetensors and a JSON config.

    imagen-jax export_weights --workdir=runs/base --out=exported [--format=imagen_jax] [--dtype=bfloat16]
    imagen-jax export_weights --workdir=runs/clip_l14 --out=exported --format=open_clip
    imagen-jax export_weights --workdir=runs/karlo --out=exported --format=karlo

``weight_formats.formats`` lists the formats; ``imagen_jax import_weights`` reads them. Every command with ``--stages``
also accepts a folder in the format imagen_jax. ``weight_formats.clip`` lists the layouts of a CLIP.
"""

from absl import flags

from imagen_jax.cascade.network_flag import read_network
from imagen_jax.clip.folder import is_clip_folder
from imagen_jax.errors import UserError
from imagen_jax.runtime.main import run_main
from imagen_jax.storage.paths import to_path
from imagen_jax.weight_formats.clip import export_clip_folder
from imagen_jax.weight_formats.formats import export_stage
from imagen_jax.weight_formats.karlo import FORMAT as KARLO
from imagen_jax.weight_formats.karlo_pipeline import export_karlo, is_imported_pipeline

FORMAT = flags.DEFINE_string(
    "format",
    "imagen_jax",
    "imagen_jax (any stage or CLIP), deepfloyd_if, karlo (imports of it), open_clip or hugging_face (a CLIP).",
)
DTYPE = flags.DEFINE_string(
    "dtype", "float32", "Dtype of the written parameters: float32, or bfloat16 for half the size."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of the stage, or folder of the CLIP.", required=True)
OUT = flags.DEFINE_string("out", None, "Output folder.", required=True)


def main() -> None:
    """Exports ``--workdir`` into ``--out``."""
    if to_path(WORKDIR.value) == to_path(OUT.value):
        raise UserError("--out is the same folder as --workdir: choose another --out")
    source, folder, network = to_path(WORKDIR.value), to_path(OUT.value), read_network()
    if FORMAT.value == KARLO and is_imported_pipeline(source):
        export_karlo(source, folder, DTYPE.value)
    elif not is_clip_folder(source):
        export_stage(FORMAT.value, source, folder, DTYPE.value, network)
    elif network is not None:
        raise UserError("--network has no effect for a CLIP: leave it out")
    else:
        export_clip_folder(source, folder, FORMAT.value, DTYPE.value)
    print(f"exported {WORKDIR.value} to {OUT.value}")


if __name__ == "__main__":
    run_main(main, "give the stage as --workdir=…")
