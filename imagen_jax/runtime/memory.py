"""Host memory: large pages for programs on the CPU, and the return of freed memory to the system.

At each call of a program, XLA allocates the memory for intermediate results from the C library. The kernel maps this
memory page by page on first access. With pages of 4 KiB, that is a hundred thousand page faults per call.

glibc requests pages of 2 MiB if the environment variable ``GLIBC_TUNABLES`` enables them. It reads the variable only at
the start of a process. This saves time in training, which calls a program again and again (measured in
``tests/benchmarks/convolutions.md``). A sampler is one program for all its steps and gains little.
"""

import ctypes
import gc
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb=1"
FIRST_GLIBC = (2, 35)
"""The first version of glibc that supports the tunable."""

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ACCELERATORS = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd")
"""Device files of TPUs and GPUs, under /dev."""


def restart_with_large_pages() -> None:
    """Restarts this process with ``GLIBC_TUNABLES`` set, if that makes training faster.

    A command calls it first; the import of a module never calls it. It does nothing if the variable already has a
    value, if the machine has an accelerator, or if ``JAX_PLATFORMS`` names another platform than ``cpu``. It also does
    nothing if the C library or the kernel does not provide large pages on request.
    """
    if "GLIBC_TUNABLES" not in os.environ and would_help():
        os.environ["GLIBC_TUNABLES"] = TUNABLE
        # If the restart fails, the process continues without large pages.
        with suppress(OSError):
            os.execv(sys.executable, sys.orig_argv)


def release_memory() -> None:
    """Returns freed memory from the C library to the system. After a compilation this can be gigabytes.

    It does nothing but collect garbage if the C library has no ``malloc_trim``.
    """
    gc.collect()
    # Python has no function for this. ``MALLOC_TRIM_THRESHOLD_`` in the environment trims only the end of the heap.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def would_help() -> bool:
    """Returns whether the machine computes on its CPU, has no accelerator and provides large pages on request."""
    return (
        os.environ.get("JAX_PLATFORMS", "cpu") == "cpu"
        and glibc_version() >= FIRST_GLIBC
        and PAGES.exists()
        and "[madvise]" in PAGES.read_text()
        and not any(any(Path("/dev").glob(pattern)) for pattern in ACCELERATORS)
    )


def glibc_version() -> tuple[int, ...]:
    """Returns glibc's major and minor version; (0, 0) for another C library."""
    known = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
    found = re.fullmatch(r"glibc (\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "") if known else None
    return (int(found[1]), int(found[2])) if found else (0, 0)
