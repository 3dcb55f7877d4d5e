"""Compiled programs, kept between runs: each with its checksum, and one that is damaged is compiled and kept anew.

    CACHE/xla/PROCESSOR/NAME-cache    the sha256 of an entry, then the entry as JAX has it

JAX alone writes entries in place, so that a killed program leaves half of one. It then warns of that entry at each
start and never replaces it; and of a bit that flips in a program it may know nothing.
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
"""How an entry begins that has no checksum, as earlier versions and JAX alone wrote it: zlib's and zstandard's."""


class CheckedCache(CacheInterface):
    """A cache of compiled programs that gives back what was put into it, or nothing.

    What a disk refuses is told once, and programs are compiled as if there were no cache.

    Args:
        inner: JAX's own, which finds room for entries.
    """

    def __init__(self, inner: LRUCache) -> None:
        self._inner = inner
        self._path = inner._path
        self._has_told = False

    def get(self, key: str) -> bytes | None:
        """The entry of a key; None where there is none, or a damaged one, which is removed."""
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
        """Keeps an entry, also where there is one, for that could not be used."""
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
        # The name is that of ``LRUCache``, which has no way to remove one.
        Path(str(self._path), f"{key}-cache").unlink(missing_ok=True)

    def _tell(self, error: OSError) -> None:
        if not self._has_told:
            self._has_told = True
            tell_refused(str(self._path), error.strerror or str(error))


def tell_refused(folder: str, reason: str) -> None:
    """Says that compiled programs can't be kept, and what helps."""
    logging.warning(
        "compiled programs can't be kept in %s (%s), so each run compiles them again: make it writable, or set "
        "IMAGEN_JAX_CACHE to another folder",
        folder,
        reason,
    )


def open_cache(path: str) -> tuple[CacheInterface, str] | None:
    """Opens the cache in a folder; None where the folder can't be made, which is told."""
    try:
        return CheckedCache(LRUCache(path, max_size=jax.config.values["jax_compilation_cache_max_size"])), path
    except OSError as error:
        tell_refused(path, error.strerror or str(error))
        return None


def enable_compilation_cache() -> None:
    """Keeps compiled programs between runs, in the cache folder (``IMAGEN_JAX_NO_CACHE=1``: not).

    The folder's name holds the machine's processor, since programs compiled for one may not run on another.
    """
    if os.environ.get("IMAGEN_JAX_NO_CACHE"):
        return
    try:
        folder = str(cache_folder() / "xla" / processor_name())
    except UserError as error:
        tell_refused("the cache folder", str(error))
        return
    # JAX has no public way to another kind of cache.
    compilation_cache.get_file_cache = open_cache
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def processor_name() -> str:
    """The processor's model and features, in a form fit for a folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.uname().machine
    told = sorted({line for line in lines if re.match(r"(model name|flags|Features)\s*:", line)})
    return f"{os.uname().machine}-{hashlib.sha256(' '.join(told).encode()).hexdigest()[:12]}"
