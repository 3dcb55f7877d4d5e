"""The bundled trained cascades and their names.

openmoji/       a 64-px base and super-resolution to 256 px; README.md is its model card
emoji_unclip/   unCLIP of the emoji of three fonts: a CLIP, a prior and a 64-px decoder

Each stage is a folder written by ``imagen_jax export_weights``: config.json and model.safetensors. Every command with
``--stages`` accepts a cascade's name instead, or names such as ``openmoji/base`` among folders.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from imagen_jax.errors import UserError, nearest_name
from imagen_jax.storage.paths import Path, to_path

CASCADES = {"openmoji": ("base", "super_resolution"), "emoji_unclip": ("prior", "decoder")}
"""The stages of each bundled cascade, in the order of sampling."""

USUAL = "openmoji"
"""The cascade that commands use by default, without ``--stages``."""


OPENMOJI = "All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0"

ATTRIBUTIONS = {
    "openmoji": OPENMOJI,
    "emoji_unclip": f"{OPENMOJI}. Noto Color Emoji, copyright 2013-2022 Google Inc.; Apache 2.0 and OFL 1.1. "
    "Fluent Emoji, copyright Microsoft Corporation; MIT License",
}
"""The attribution that the licence of a cascade's training images asks for."""


def attribution_of(stages: Sequence[str]) -> str:
    """Returns the attribution of the bundled cascade that a stage is from; empty if all stages are others.

    Args:
        stages: the folders of the stages.
    """
    here = to_path(__file__).parent
    folders = {str(to_path(stage).parent) for stage in stages}
    return next((text for name, text in ATTRIBUTIONS.items() if str(here / name) in folders), "")


def bundled(folder: Path, name: str) -> list[Path]:
    """Returns the folders of a bundled cascade's stages, base first."""
    return [folder / name / stage for stage in CASCADES[name]]


def find_stages(named: str | Path | Sequence[str | Path]) -> list[Path]:
    """Returns the folders of the stages; the name of a bundled cascade stands for the folders of its stages.

    Args:
        named: the stages' folders, base first, a single such folder, or a name in ``CASCADES``. For your own folder
            with such a name write ``./openmoji``. Each folder may also be a bundled stage, see ``find_part``.

    Raises:
        UserError: the only name is not a folder, and resembles one in ``CASCADES``.
    """
    folders = [named] if isinstance(named, str | Path) else list(named)
    name = str(folders[0]) if len(folders) == 1 else ""
    is_folder = isinstance(folders[0], Path) if len(folders) == 1 else True
    if name in CASCADES and not (is_folder and to_path(name).is_dir()):
        return bundled(to_path(__file__).parent, name)
    if get_close_matches(name, CASCADES) and "/" not in name and not to_path(name).exists():
        raise UserError(f"there is no folder {name}{nearest_name(name, CASCADES)}")
    return [find_part(one) for one in folders]


def find_part(named: str | Path) -> Path:
    """Returns the folder of a stage or a CLIP: ``named`` itself, or a bundled one such as ``openmoji/base``.

    A local folder of that name comes first.
    """
    cascade, _, part = str(named).partition("/")
    folder = to_path(__file__).parent / cascade / part
    is_name = cascade.isidentifier() and part.isidentifier() and folder.is_dir()
    return folder if is_name and not to_path(named).is_dir() else to_path(named)
