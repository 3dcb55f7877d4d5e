"""The flags ``--stages`` and ``--text_encoder``, of every command that loads a cascade."""

from absl import flags

from imagen_jax.pretrained import USUAL
from imagen_jax.storage.paths import Path, split_places, to_path

STAGES = flags.DEFINE_multi_string(
    "stages", [USUAL], "The stages' folders, base first, separated by commas; or a cascade's name. Repeatable."
)
TEXT_ENCODER = flags.DEFINE_string(
    "text_encoder", None, "Folder of the stages' T5 or CLIP, if it has moved since training."
)


def read_stages() -> list[str]:
    """Returns the folders or the cascade's name in ``--stages``.

    Raises:
        UserError: one has an unknown URL scheme, or a bucket that can't be opened.
    """
    return [folder for text in STAGES.value for folder in split_places(text) if folder]


def read_text_encoder() -> Path | None:
    """Returns the folder in ``--text_encoder``; None if the flag is not given.

    Raises:
        UserError: it has an unknown URL scheme, or a bucket that can't be opened.
    """
    return to_path(TEXT_ENCODER.value) if TEXT_ENCODER.value else None
