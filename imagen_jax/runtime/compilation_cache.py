"""A persistent compilation cache with checksums. It removes and replaces damaged entries.

    CACHE/xla/PROCESSOR/NAME-cache    the SHA-256 of an entry, then JAX's entry

JAX's own cache writes entries in place, so a killed program leaves an incomplete entry. JAX then warns of that entry at
each start and never replaces it. It may also miss a flipped bit in a compiled program.
"""

import hashlib
import os
import re
from pathlib import Path

import jax
from absl import logging
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface
from jax._src.lru_cache import LRUCache

from imagen_jax.errors import UserError
from imagen_jax.storage.local_copies import cache_folder

DIGEST = hashlib.sha256().digest_size

BEGINNINGS = (b"x\x9c", b"\x28\xb5\x2f\xfd")
"""First bytes of entries without a checksum, from earlier versions and JAX's own cache: zlib and Zstandard."""


class CheckedCache(CacheInterface):
    """A cache of compiled programs that never returns a damaged entry.

    After a disk error it prints one warning, and programs compile as without a cache.

    Args:
        inner: JAX's own cache, which stores the entries and evicts old ones.
    """

    def __init__(self, inner: LRUCache) -> None:
        self._inner = inner
        self._path = inner._path
        self._has_told = False

    def get(self, key: str) -> bytes | None:
        """Returns the entry of a key; None if it is missing or damaged. Removes a damaged entry."""
        try:
            content = self._inner.get(key)
            if content is None:
                return None
            digest, value = content[:DIGEST], content[DIGEST:]
            if hashlib.sha256(value).digest() == digest:
                return value
            self._remove(key)
        except OSError as error:
            self._tell(error)
            return None
        if not content.startswith(BEGINNINGS):
            logging.warning("a compiled program in %s was damaged: it is compiled and kept anew", self._path)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Stores an entry. It replaces an existing one, because ``get`` could not return that one."""
        try:
            self._remove(key)
            try:
                self._inner.put(key, hashlib.sha256(value).digest() + value)
            except OSError:
                self._remove(key)
                raise
        except OSError as error:
            self._tell(error)

    def _remove(self, key: str) -> None:
        # ``LRUCache`` can't remove an entry. The suffix is the one that it uses.
        Path(str(self._path), f"{key}-cache").unlink(missing_ok=True)

    def _tell(self, error: OSError) -> None:
        if not self._has_told:
            self._has_told = True
            tell_refused(str(self._path), error.strerror or str(error))


def tell_refused(folder: str, reason: str) -> None:
    """Logs a warning that the cache folder can't be used, with the fix."""
    logging.warning(
        "compiled programs can't be kept in %s (%s), so each run compiles them again: make it writable, or set "
        "IMAGEN_JAX_CACHE to another folder",
        folder,
        reason,
    )


def open_cache(path: str) -> tuple[CacheInterface, str] | None:
    """Opens the cache in a folder. Returns the cache and the folder; None, with a warning, after a disk error."""
    try:
        return CheckedCache(LRUCache(path, max_size=jax.config.values["jax_compilation_cache_max_size"])), path
    except OSError as error:
        tell_refused(path, error.strerror or str(error))
        return None


def enable_compilation_cache() -> None:
    """Enables the persistent compilation cache in the cache folder, unless ``IMAGEN_JAX_NO_CACHE`` is set.

    Each processor type has its own folder, because a program compiled for one may not run on another.
    """
    if os.environ.get("IMAGEN_JAX_NO_CACHE"):
        return
    try:
        folder = str(cache_folder() / "xla" / processor_name())
    except UserError as error:
        tell_refused("the cache folder", str(error))
        return
    # JAX has no public API for another cache class.
    compilation_cache.get_file_cache = open_cache
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def processor_name() -> str:
    """Returns a folder name that identifies the processor: the architecture and a hash of its model and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.uname().machine
    told = sorted({line for line in lines if re.match(r"(model name|flags|Features)\s*:", line)})
    return f"{os.uname().machine}-{hashlib.sha256(' '.join(told).encode()).hexdigest()[:12]}"
