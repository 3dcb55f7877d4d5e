"""imagen-jax: Imagen (Saharia et al. 2022, arXiv 2205.11487) in JAX and Flax.

Captions and images go in on the left, a trained cascade comes out on the right::

    train.py    data -> text -> diffusion (loss) -> models -> training (step, state, checkpoints)
    sample.py   training.checkpoints -> sampling (steps, guidance, edits, cascade) -> pictures; serve.py as a page
    evaluate.py sampling -> evaluation (features, caption recall, report)
    compile_check.py    config -> jobs (programs) -> forecast (memory, exchanges, the least time) of a pod not here
    import_weights.py  weights from elsewhere -> training.checkpoints; export_weights.py the other way

Imports point one way, and ``tests/test_import_directions.py`` holds them to it::

    host_memory <- array_types, errors <- storage <- sharding, weights <- diffusion, models, text, data
                        <- sampling, training <- evaluation <- stages <- jobs, forecast <- the mains
"""

from importlib import import_module
from typing import Any

from imagen_jax.host_memory import begin_again_with_large_pages
from imagen_jax.standard_streams import open_closed_streams

__version__ = "0.1.0"

# Before anything else is imported, which may open files.
open_closed_streams()
# Likewise, for all that would be for nothing.
begin_again_with_large_pages()

FOR_NOTEBOOKS = {
    "load_cascade": "imagen_jax.cascades",
    "Cascade": "imagen_jax.cascades",
    "Edit": "imagen_jax.edits",
    "Wish": "imagen_jax.wishes",
    "UserError": "imagen_jax.errors",
}
"""What is reached from the package itself, and the module that has it, imported when it is asked for."""


def __getattr__(name: str) -> Any:
    """``imagen_jax.load_cascade`` and the like, without loading all of JAX for whoever wants the version.

    Raises:
        AttributeError: there is nothing of that name; names the nearest.
    """
    if name in FOR_NOTEBOOKS:
        return getattr(import_module(FOR_NOTEBOOKS[name]), name)
    hint = "" if name.startswith("_") else import_module("imagen_jax.errors").nearest_name(name, FOR_NOTEBOOKS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    """The names of the package, also of those that are not imported yet."""
    return sorted({*globals(), *FOR_NOTEBOOKS})
