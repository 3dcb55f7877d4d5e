"""The platform that a program is traced for, which selects the implementations of convolutions and attention.

On CPUs, ``models`` and ``encoders`` replace operations that XLA compiles badly. Accelerators use the plain
implementations. So do CPUs when they sample (``cascade.stage_sampler.make_denoiser``), and with
``IMAGEN_JAX_AS_WRITTEN=1`` in the environment, which suits short trainings: the CPU implementations take longer to
compile.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_as_written: ContextVar[bool] = ContextVar("as_written", default=bool(os.environ.get("IMAGEN_JAX_AS_WRITTEN")))


@contextmanager
def plain_implementations(as_written: bool = True) -> Iterator[None]:
    """Selects the plain implementations within the block, also on CPUs.

    This suits analyses of a network that do not depend on the platform, such as its number of operations.

    Args:
        as_written: False selects the CPU implementations on CPUs again.
    """
    before = _as_written.set(as_written)
    try:
        yield
    finally:
        _as_written.reset(before)


def computes_on_cpu() -> bool:
    """Returns whether the program that is being traced uses the CPU implementations.

    The platform is that of the current mesh, if it is known, otherwise JAX's default backend.
    """
    if _as_written.get():
        return False
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.abstract_device is None:
        return jax.default_backend() == "cpu"
    return mesh.abstract_device.platform == "cpu"


def computes_on_one_device() -> bool:
    """Returns whether the program that is being traced is for a single device.

    Without a mesh, the answer is True only if JAX has a single device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() == 1 if mesh.empty else mesh.size == 1


def computed_once(x: jax.Array) -> jax.Array:
    """Returns an array which, on CPUs, XLA computes once, and its gradient too. For the sums of a residual stream.

    Otherwise XLA adds up the gradients of all later layers again wherever a layer reads their sum, in the slow order of
    a transposed copy. That was half of a step of CLIP ViT-B/32 (``tests/benchmarks/clip_step.md``).
    """
    return jax.lax.optimization_barrier(x) if computes_on_cpu() else x


def compiler_options(platform: str) -> dict[str, str] | None:
    """Returns the compiler options of ``jax.jit`` for a program with gradients; None for the defaults.

    XLA's CPU compiler removes the barriers between the forward pass and its recomputation for the gradient. It then
    merges both, so that ``jax.checkpoint`` takes time and saves no memory. The options disable that pass.

    Args:
        platform: platform of the devices: "cpu", "tpu" or "gpu".
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" else None
