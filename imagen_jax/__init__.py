"""imagen-jax: Imagen (Saharia et al. 2022, arXiv 2205.11487) in JAX and Flax.

Captions and images go in on the left, a trained cascade comes out on the right::

    data (sources, preparation) -> encoders -> diffusion (loss) -> models -> training     train.py
    training.checkpoints -> cascade -> sampling (steps, guidance, edits) -> image files   sample.py, commands/serve.py
    cascade -> evaluation (metrics, protocols) -> reports                                 evaluate.py

``python -m imagen_jax`` lists all commands. Each folder is a room, and its ``__init__.py`` says what lives there.
Imports point one way: a module imports from the rows above its own row and from its own room, never from a neighbour.

=============================================  ==========================================================
Row, lowest first                              What is new in it
=============================================  ==========================================================
array_types, errors                            shapes by name; errors that a user can fix
config, storage, sharding                      keys of configs; paths on disks and in buckets; the mesh
runtime, weights                               processes, signals, command lines; files of weights
diffusion, data                                the diffusion process as pure functions; captioned images
clip, models, sampling                         networks; from noise to images
encoders, pretrained, training                 frozen networks; bundled cascades; optimizer, loop, checkpoints
cascade                                        a stage and a cascade of stages, built from configs
evaluation, forecast, weight_formats           metrics and reports; memory and FLOPs; import and export
evaluate, sample, train, web                   the three main programs; the pages
__main__, commands                             all other programs
=============================================  ==========================================================

``tests/test_import_directions.py`` reads this table and checks every import.
"""

import sys
import warnings
from importlib import import_module
from typing import Any

from imagen_jax.runtime.missing_packages import explain_at_exit
from imagen_jax.runtime.standard_streams import open_closed_streams

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
    "UserError": "imagen_jax.errors",
}
"""Names that the package itself offers, and the module of each, which is imported at first use."""

RENAMED = {"Wish": "ImageRequest"}
"""Old names, which still work and warn."""


def __getattr__(name: str) -> Any:
    """Imports ``imagen_jax.load_cascade`` and the like at first use, so that ``import imagen_jax`` does not load JAX.

    Raises:
        AttributeError: the package has no such name; the message names the nearest.
    """
    if name in RENAMED:
        warnings.warn(f"imagen_jax.{name} is now imagen_jax.{RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = RENAMED[name]
    if name in FOR_NOTEBOOKS:
        return getattr(import_module(FOR_NOTEBOOKS[name]), name)
    hint = "" if name.startswith("_") else import_module("imagen_jax.errors").nearest_name(name, FOR_NOTEBOOKS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    """Returns the names of the package, including those that are not imported yet."""
    return sorted({*globals(), *FOR_NOTEBOOKS})
