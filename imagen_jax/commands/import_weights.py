r"""Imports weights that were trained elsewhere: a stage to sample, or a CLIP.

    imagen-jax import_weights --format=deepfloyd_if --source=IF-I-M-v1.0 --out=runs/if_base
    imagen-jax import_weights --format=deepfloyd_if --source=IF-II-M-v1.0 --out=runs/if_large \
        --text_encoder=IF-I-M-v1.0/text_encoder
    imagen-jax import_weights --format=karlo --source=karlo-v1-alpha --out=runs/karlo
    imagen-jax import_weights --format=clip --source=ViT-L-14.pt --out=runs/clip_l14
    imagen-jax sample --stages=runs/if_base,runs/if_large --prompt="a panda" --out=pictures

``weight_formats.formats`` lists the formats of stages. Their weights must be safetensors, because a pickle could run
code. A CLIP is OpenAI's file, or a folder of open_clip or Hugging Face (``weight_formats.clip``). A whole folder of
Karlo becomes its CLIP and three stages, ``runs/karlo/prior``, ``decoder`` and ``upsampler``.
"""

from absl import flags

from imagen_jax.cascade.checkpoint_export import ImportChoices
from imagen_jax.errors import UserError
from imagen_jax.runtime.main import run_main
from imagen_jax.storage.paths import to_path
from imagen_jax.weight_formats.clip import FORMAT as CLIP
from imagen_jax.weight_formats.clip import import_clip_folder
from imagen_jax.weight_formats.formats import import_stage
from imagen_jax.weight_formats.karlo import FORMAT as KARLO
from imagen_jax.weight_formats.karlo_pipeline import import_karlo, is_pipeline

FORMAT = flags.DEFINE_string("format", None, "deepfloyd_if, karlo, imagen_jax or clip.", required=True)
SOURCE = flags.DEFINE_string("source", None, "Folder of the weights, or OpenAI's file of a CLIP.", required=True)
OUT = flags.DEFINE_string("out", None, "Workdir to create, or the folder of the CLIP.", required=True)
TEXT_ENCODER = flags.DEFINE_string(
    "text_encoder", None, "Folder of T5, if it is not beside the U-Net; of Karlo's CLIP."
)
DTYPE = flags.DEFINE_string("dtype", None, "Compute dtype of the network; default for DeepFloyd IF and Karlo: float32.")
TEXT_DTYPE = flags.DEFINE_string("text_dtype", None, "Compute dtype of T5; default for DeepFloyd IF: bfloat16.")
CLIP_VOCABULARY = flags.DEFINE_string("clip_vocabulary", None, "OpenAI's vocabulary, if it is not beside the CLIP.")


def main() -> None:
    """Imports ``--source`` into ``--out``.

    Raises:
        UserError: a flag has no effect for the format, or the import fails.
    """
    of_other_formats = (TEXT_ENCODER, DTYPE, TEXT_DTYPE) if FORMAT.value == CLIP else (CLIP_VOCABULARY,)
    for flag in of_other_formats:
        if flag.value is not None:
            raise UserError(f"--{flag.name} has no effect with --format={FORMAT.value}: leave it out")
    if FORMAT.value == CLIP:
        import_clip_folder(SOURCE.value, to_path(OUT.value), CLIP_VOCABULARY.value or "")
        print(f"{OUT.value} is a CLIP: score with imagen-jax evaluate --clip_weights={OUT.value}")
        return
    text_encoder = to_path(TEXT_ENCODER.value) if TEXT_ENCODER.value else None
    choices = ImportChoices(text_encoder, DTYPE.value, TEXT_DTYPE.value)
    if FORMAT.value == KARLO and is_pipeline(to_path(SOURCE.value)):
        stages = ",".join(map(str, import_karlo(to_path(SOURCE.value), to_path(OUT.value), choices)))
        print(f"sample with imagen-jax sample --stages={stages} --prompt=… --out=…")
        return
    import_stage(FORMAT.value, to_path(SOURCE.value), to_path(OUT.value), choices)
    print(f"{OUT.value} is a stage: sample with imagen-jax sample --stages={OUT.value} --prompt=… --out=…")


if __name__ == "__main__":
    run_main(main, "give the folder of the weights as --source=…")
