"""The flags that name the stages of a cascade, of every command that takes one."""

from absl import flags

from imagen_jax.pretrained import USUAL
from imagen_jax.storage.paths import Path, split_places, to_path

STAGES = flags.DEFINE_multi_string(
    "stages", [USUAL], "The stages' folders, base first: commas between, or the flag again; or a cascade's name."
)
TEXT_ENCODER = flags.DEFINE_string("text_encoder", None, "Folder of the stages' T5, where it has moved since training.")


def read_stages() -> list[str]:
    """What ``--stages`` names.

    Raises:
        UserError: a place of another kind than we know.
    """
    return [place for text in STAGES.value for place in split_places(text) if place]


def read_text_encoder() -> Path | None:
    """What ``--text_encoder`` names; None where it is not given.

    Raises:
        UserError: a place of another kind than we know.
    """
    return to_path(TEXT_ENCODER.value) if TEXT_ENCODER.value else None
