"""Trained cascades that come with the package, and what they are called.

openmoji/   a 64-px base and super-resolution to 256 px; README.md is its model card

Each stage is a folder as ``imagen_jax export_weights`` writes it: config.json and model.safetensors. Whatever takes
``--stages`` takes a cascade's name instead.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from imagen_jax.errors import UserError, nearest_name
from imagen_jax.storage.paths import Path, to_path

CASCADES = {"openmoji": ("base", "super_resolution")}
"""The stages of each, base first."""

USUAL = "openmoji"
"""What commands draw with where no stages are named."""


def find_stages(named: str | Path | Sequence[str | Path]) -> list[Path]:
    """The folders of the stages: of a cascade that comes with the package, where its name is all there is.

    Args:
        named: the stages' folders, base first, or the folder of the only one; or one name of ``CASCADES``. A folder of
            such a name of one's own is ``./openmoji``.

    Raises:
        UserError: the only name is no folder, and nearly one of ``CASCADES``.
    """
    folders = [named] if isinstance(named, str | Path) else list(named)
    name = str(folders[0]) if len(folders) == 1 else ""
    is_folder = isinstance(folders[0], Path) if len(folders) == 1 else True
    if name in CASCADES and not (is_folder and to_path(name).is_dir()):
        cascade = to_path(__file__).parent / name
        return [cascade / stage for stage in CASCADES[name]]
    if get_close_matches(name, CASCADES) and "/" not in name and not to_path(name).exists():
        raise UserError(f"there is no folder {name}{nearest_name(name, CASCADES)}")
    return [to_path(one) for one in folders]
