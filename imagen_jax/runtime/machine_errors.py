"""Messages for missing resources of a machine: memory, threads, JAX platforms, home and temporary folders.

an error of Python, JAX or the C library -> ``UserError`` with the fix; None for all other errors
"""

import os

import jax
from jax.errors import JaxRuntimeError

from imagen_jax.errors import ForNowError, UserError

LESS = "end other programs, or ask for less at once: a smaller batch size, resolution or network"


def explain_missing_resource(error: BaseException, others: bool = False) -> UserError | None:
    """Converts an error about a missing resource to a ``UserError``.

    Args:
        error: the error.
        others: whether the run has other processes. Listing devices would then wait for them.

    Returns:
        The ``UserError``; None if ``error`` has another cause.
    """
    said = str(error)
    first_line = said.partition("\n")[0]
    if isinstance(error, MemoryError):
        return UserError(f"this machine's memory is used up{f' ({first_line})' if said else ''}: {LESS}")
    if isinstance(error, JaxRuntimeError) and said.startswith("RESOURCE_EXHAUSTED"):
        return UserError(f"a device's memory is used up ({first_line}): {LESS}")
    if isinstance(error, RuntimeError) and "can't start new thread" in said:
        return ForNowError(
            "no more threads can be started on this machine: end other programs, or raise the limit (ulimit -u, or "
            "that of the container), and run the same command again"
        )
    if isinstance(error, RuntimeError) and "home directory" in said:
        return UserError("a path begins with ~, and that user has no home folder: write the path in full, or set HOME")
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in said:
        return UserError("there is no folder for temporary files: set TMPDIR to one that can be written to")
    return explain_platform(error, others)


def explain_platform(error: BaseException, others: bool) -> UserError | None:
    """Converts an error about a JAX platform that is configured but unusable to a ``UserError``.

    Args:
        error: the error.
        others: whether the run has other processes. Listing devices would then wait for them.

    Returns:
        The ``UserError``; None if ``error`` has another cause.
    """
    named = jax.config.values["jax_platforms"]
    # For a known platform without an installed plugin, JAX raises an assertion error without a message.
    if not named or not isinstance(error, RuntimeError | AssertionError):
        return None
    reason = str(error).partition(" (set JAX_PLATFORMS")[0].partition("\n")[0]
    if "initialize backend" not in reason:
        reason = "" if others else find_reason()
        if not reason:
            return None
    variable = f"JAX_PLATFORMS={named}" if os.environ.get("JAX_PLATFORMS") == named else f"jax_platforms={named}"
    there = "" if others else list_platforms()
    mend = f"set it to {there}, which is here, or unset it" if there else "set it to cpu, or unset it"
    return UserError(f"{variable} names a platform that JAX can't use on this machine ({reason}): {mend}")


def find_reason() -> str:
    """Returns the reason why JAX can't initialise the configured platform; empty if it can."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0] or "no plugin for it is installed"
    return ""


def list_platforms() -> str:
    """Returns the platform that JAX chooses by default on this machine, such as "cpu"; empty if none works."""
    jax.config.update("jax_platforms", None)
    try:
        return jax.default_backend()
    except RuntimeError:
        return ""
