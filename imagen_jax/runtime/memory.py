"""The memory of a host that computes: large pages for programs on its CPU, and what is freed given back.

XLA takes the memory for a program's intermediate results from the C library at each call, and the kernel then maps it
page by page, as it is touched: of 4 KiB each, that is a hundred thousand interruptions a call. glibc asks for pages of
2 MiB where the environment variable ``GLIBC_TUNABLES`` says so, which it reads when a process begins, and never again
(measured in ``tests/benchmarks/convolutions.md``). That saves time where a program is run again and again, in training;
a sampler is one program for all its steps, and gains little.
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
"""The first version that knows the tunable."""

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ACCELERATORS = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd")
"""Device files of TPUs and GPUs, under /dev."""


def restart_with_large_pages() -> None:
    """Restarts this process with ``GLIBC_TUNABLES`` set, where that makes a training faster.

    A command calls it before it does anything else; importing a module never does. Nothing happens where it would not
    help: the variable is set already, to any value; the machine has an accelerator; the C library or the kernel does
    not give large pages on request.
    """
    if "GLIBC_TUNABLES" not in os.environ and would_help():
        os.environ["GLIBC_TUNABLES"] = TUNABLE
        # Where it can't restart, it continues as it is.
        with suppress(OSError):
            os.execv(sys.executable, sys.orig_argv)


def release_memory() -> None:
    """Gives freed memory back to the system, which the C library keeps for later: after a compilation, gigabytes.

    Nothing happens where the C library can't.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def would_help() -> bool:
    """Whether this machine computes on its CPU and hands out large pages to those who ask."""
    return (
        os.environ.get("JAX_PLATFORMS", "cpu") == "cpu"
        and glibc_version() >= FIRST_GLIBC
        and PAGES.exists()
        and "[madvise]" in PAGES.read_text()
        and not any(any(Path("/dev").glob(pattern)) for pattern in ACCELERATORS)
    )


def glibc_version() -> tuple[int, ...]:
    """Major and minor version; (0, 0) where the C library is another."""
    known = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
    found = re.fullmatch(r"glibc (\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "") if known else None
    return (int(found[1]), int(found[2])) if found else (0, 0)
