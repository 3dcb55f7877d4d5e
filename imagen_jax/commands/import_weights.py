r"""Imports weights that were trained elsewhere, as a stage to sample.

    imagen-jax import_weights --format=deepfloyd_if --source=IF-I-M-v1.0 --out=runs/if_base
    imagen-jax import_weights --format=deepfloyd_if --source=IF-II-M-v1.0 --out=runs/if_large \
        --text_encoder=IF-I-M-v1.0/text_encoder
    imagen-jax sample --stages=runs/if_base,runs/if_large --prompt="a panda" --out=pictures

``weight_formats.formats`` lists the formats. Weights must be safetensors, because a pickle could run code.
"""

from absl import flags

from imagen_jax.cascade.checkpoint_export import ImportChoices
from imagen_jax.runtime.main import run_main
from imagen_jax.storage.paths import to_path
from imagen_jax.weight_formats.formats import import_stage

FORMAT = flags.DEFINE_string("format", None, "deepfloyd_if or imagen_jax.", required=True)
SOURCE = flags.DEFINE_string("source", None, "Folder of the weights.", required=True)
OUT = flags.DEFINE_string("out", None, "Workdir to create.", required=True)
TEXT_ENCODER = flags.DEFINE_string("text_encoder", None, "Folder of T5, if it is not beside the U-Net.")
DTYPE = flags.DEFINE_string("dtype", None, "Compute dtype of the network; default for DeepFloyd IF: float32.")
TEXT_DTYPE = flags.DEFINE_string("text_dtype", None, "Compute dtype of T5; default for DeepFloyd IF: bfloat16.")


def main() -> None:
    """Imports ``--source`` into ``--out``."""
    text_encoder = to_path(TEXT_ENCODER.value) if TEXT_ENCODER.value else None
    choices = ImportChoices(text_encoder, DTYPE.value, TEXT_DTYPE.value)
    import_stage(FORMAT.value, to_path(SOURCE.value), to_path(OUT.value), choices)
    print(f"{OUT.value} is a stage: sample with imagen-jax sample --stages={OUT.value} --prompt=… --out=…")


if __name__ == "__main__":
    run_main(main, "give the folder of the weights as --source=…")
