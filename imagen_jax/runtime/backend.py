"""What kind of device a program is traced for, which decides how a network convolves and attends.

CPUs have ways of their own for what XLA compiles badly for them, in ``models``. Accelerators compute a network as it is
written, and so do CPUs with ``IMAGEN_JAX_AS_WRITTEN=1`` in the environment, for what computes so briefly that compiling
would take longer.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_as_written: ContextVar[bool] = ContextVar("as_written", default=bool(os.environ.get("IMAGEN_JAX_AS_WRITTEN")))


@contextmanager
def plain_implementations(as_written: bool = True) -> Iterator[None]:
    """Inside, CPUs too compute networks as they are written: for questions about a network, not how it is computed."""
    before = _as_written.set(as_written)
    try:
        yield
    finally:
        _as_written.reset(before)


def computes_on_cpu() -> bool:
    """Whether what is traced now is for CPUs, in ways of their own: those of the mesh, else JAX's default device."""
    if _as_written.get():
        return False
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.abstract_device is None:
        return jax.default_backend() == "cpu"
    return mesh.abstract_device.platform == "cpu"


def computes_on_one_device() -> bool:
    """Whether what is traced now is for a single device, as far as can be known."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() == 1 if mesh.empty else mesh.size == 1


def compiler_options(platform: str) -> dict[str, str] | None:
    """Options for compiling a program with gradients, for ``jax.jit``.

    XLA's compiler for CPUs takes away the barriers that keep apart what is computed once and what is computed again for
    the gradient, and then merges the two, so that ``jax.checkpoint`` takes time and saves no memory. It is told not to.

    Args:
        platform: of the devices: "cpu", "tpu" or "gpu".
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" else None
