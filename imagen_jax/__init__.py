"""imagen-jax: Imagen (Saharia et al. 2022, arXiv 2205.11487) in JAX and Flax.

Captions and images go in on the left, a trained cascade comes out on the right::

    data (sources, preparation) -> encoders -> diffusion (loss) -> models -> training     train.py
    training.checkpoints -> cascade -> sampling (steps, guidance, edits) -> image files   sample.py, commands/serve.py
    cascade -> evaluation (metrics, protocols) -> reports                                 evaluate.py

From Python, ``dir(imagen_jax)`` lists what is public: a few names, such as ``load_cascade``, and the rooms. Each is
imported at first use. ``python -m imagen_jax`` lists all commands.

Each folder is a room, and its ``__init__.py`` says what lives there. Imports point one way: a module imports from the
rows above its own row and from its own room, never from a neighbour.

=============================================  ==========================================================
Row, lowest first                              What is new in it
=============================================  ==========================================================
array_types, errors                            shapes by name; errors that a user can fix
config, storage, sharding                      keys of configs; paths on disks and in buckets; the mesh
pretrained, runtime, weights                   bundled cascades; processes, signals; files of weights
diffusion, data                                the diffusion process as pure functions; captioned images
clip, models, sampling                         networks; from noise to images
encoders, training                             frozen networks; optimizer, loop, checkpoints
cascade                                        a stage and a cascade of stages, built from configs
evaluation, forecast, weight_formats           metrics and reports; memory and FLOPs; import and export
tasks                                          what can be trained: a stage, a classifier, a CLIP, codes
evaluate, sample, train, web                   evaluation, sampling and training; the pages
__main__, commands                             the programs
=============================================  ==========================================================

``tests/test_import_directions.py`` reads this table and checks every import.
"""

import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from imagen_jax.runtime.missing_packages import explain_at_exit
from imagen_jax.runtime.standard_streams import open_closed_streams

if TYPE_CHECKING:
    # What FOR_NOTEBOOKS has, for editors and type checkers, which do not run the code.
    from imagen_jax.cascade.cascade import Cascade as Cascade
    from imagen_jax.cascade.cascade import load_cascade as load_cascade
    from imagen_jax.cascade.edits import Edit as Edit
    from imagen_jax.cascade.requests import ImageRequest as ImageRequest
    from imagen_jax.errors import UserError as UserError
    from imagen_jax.runtime.config_files import load_config as load_config

__version__ = "0.1.0"

# The commands were modules of the package itself, and `python -m imagen_jax.serve` still runs one.
__path__.append(f"{__path__[0]}/commands")

# A file that is opened while a standard stream is closed would take that stream's number.
open_closed_streams()

# Python has this argument while it looks for the module of `python -m imagen_jax.train`, whose imports may be missing.
if getattr(sys, "argv", [])[:1] == ["-m"]:
    explain_at_exit()

FOR_NOTEBOOKS = {
    "load_cascade": "imagen_jax.cascade.cascade",
    "Cascade": "imagen_jax.cascade.cascade",
    "Edit": "imagen_jax.cascade.edits",
    "ImageRequest": "imagen_jax.cascade.requests",
    "load_config": "imagen_jax.runtime.config_files",
    "UserError": "imagen_jax.errors",
}
"""Names that the package itself offers, and the module of each, which is imported at first use."""

RENAMED = {"Wish": "ImageRequest"}
"""Old names, which still work and warn."""


def __getattr__(name: str) -> Any:
    """Imports ``imagen_jax.load_cascade``, ``imagen_jax.diffusion`` and the like at first use.

    So ``import imagen_jax`` does not load JAX.

    Raises:
        AttributeError: the package has no such name; the message names the nearest.
    """
    if name in RENAMED:
        warnings.warn(f"imagen_jax.{name} is now imagen_jax.{RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = RENAMED[name]
    if name in FOR_NOTEBOOKS:
        return getattr(import_module(FOR_NOTEBOOKS[name]), name)
    if not name.startswith("_") and name in list_rooms():
        return import_module(f"{__name__}.{name}")
    hint = "" if name.startswith("_") else import_module("imagen_jax.errors").nearest_name(name, FOR_NOTEBOOKS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    """Returns the public names, also those that are not imported yet."""
    return sorted({*filter(lambda name: name.startswith("__"), globals()), *FOR_NOTEBOOKS, *list_rooms()})


def list_rooms() -> set[str]:
    """Returns the names of the rooms. Programs are left out: importing one defines the flags of its command line."""
    from pkgutil import iter_modules  # takes longer than all else here

    return {one.name for one in iter_modules(__path__[:1])} - {"__main__", "commands", "configs", "sample"}
