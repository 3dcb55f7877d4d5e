"""JAX's persistent compilation cache in our cache folder. Unreadable entries are removed, so JAX replaces them.

    CACHE/programs/PROCESSOR/PROGRAM-HASH-cache

JAX writes an entry in place, so a killed program or a full disk leaves an incomplete one. JAX warns of that entry at
each start, compiles the program again and keeps the entry. So ``CacheWarnings`` removes it when JAX warns.
"""

import glob
import hashlib
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging

from imagen_jax.errors import UserError
from imagen_jax.storage.local_copies import cache_folder

WARNING = re.compile(r"Error (reading|writing) persistent compilation cache entry for '([^']*)': (.*)", re.DOTALL)
"""JAX's warning of an entry: the operation, the name of the program, and the error."""


class CacheWarnings:
    """Handles JAX's warnings about the cache: removes unreadable entries, and logs one message for all of them.

    Args:
        folder: folder of the entries.
        show: function for all other warnings, with the arguments of ``warnings.showwarning``.
    """

    def __init__(self, folder: Path, show: Callable[..., Any]) -> None:
        self._folder = folder
        self._show = show
        self._has_warned = False

    def __call__(self, message: Warning | str, *args: Any, **kwargs: Any) -> None:
        """Handles a warning. The arguments are those of ``warnings.showwarning``."""
        found = WARNING.match(str(message))
        if found is None:
            self._show(message, *args, **kwargs)
            return
        operation, program, error = found.groups()
        removed = self._remove(program)
        if self._has_warned:
            return
        self._has_warned = True
        if removed and operation == "reading":
            logging.warning("a compiled program in %s was damaged: it is compiled and stored again", self._folder)
        else:
            warn_of_no_cache(str(self._folder), error.partition("\n")[0])

    def _remove(self, program: str) -> bool:
        """Removes the entries of a program, for all shapes. Returns whether it has removed any."""
        try:
            entries = list(self._folder.glob(f"{glob.escape(program)}-*-cache"))
            for entry in entries:
                entry.unlink(missing_ok=True)
        except OSError:
            return False
        return bool(entries)


def warn_of_no_cache(folder: str, reason: str) -> None:
    """Logs a warning that the cache folder can't be used, with the fix."""
    logging.warning(
        "compiled programs can't be kept in %s (%s), so each run compiles them again: make it writable, or set "
        "IMAGEN_JAX_CACHE to another folder",
        folder,
        reason,
    )


def enable_compilation_cache() -> None:
    """Enables the persistent compilation cache in the cache folder, unless ``IMAGEN_JAX_NO_CACHE`` is set.

    Each processor type has its own folder, because a program compiled for one may not run on another.
    """
    if os.environ.get("IMAGEN_JAX_NO_CACHE"):
        return
    try:
        folder = cache_folder() / "programs" / processor_name()
    except UserError as error:
        warn_of_no_cache("the cache folder", str(error))
        return
    warnings.showwarning = CacheWarnings(Path(folder), warnings.showwarning)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def processor_name() -> str:
    """Returns a folder name that identifies the processor: the architecture and a hash of its model and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.uname().machine
    told = sorted({line for line in lines if re.match(r"(model name|flags|Features)\s*:", line)})
    return f"{os.uname().machine}-{hashlib.sha256(' '.join(told).encode()).hexdigest()[:12]}"
