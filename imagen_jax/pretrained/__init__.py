"""Trained cascades that come with the package, and what they are called.

openmoji/   a 64-px base and super-resolution to 256 px; README.md is its model card

Each stage is a folder as ``imagen_jax.export_weights`` writes it: config.json and model.safetensors. Whatever takes
``--stages`` takes a cascade's name instead. Imports storage; may be imported by ``cascades`` and the commands.
"""

from collections.abc import Sequence

from imagen_jax.storage.paths import Path, to_path

CASCADES = {"openmoji": ("base", "super_resolution")}
"""The stages of each, base first."""

USUAL = "openmoji"
"""What commands draw with where no stages are named."""


def find_stages(named: Sequence[str | Path]) -> list[Path]:
    """The folders of the stages: of a cascade that comes with the package, where its name is all there is.

    Args:
        named: the stages' folders, base first; or one name of ``CASCADES``. A folder of such a name of one's own is
            ``./openmoji``.
    """
    if len(named) == 1 and named[0] in CASCADES:
        cascade = to_path(__file__).parent / str(named[0])
        return [cascade / stage for stage in CASCADES[str(named[0])]]
    return [to_path(one) for one in named]
