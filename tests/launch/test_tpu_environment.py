"""`tpu_environment.sh`, held against the real TPU compiler, which needs no TPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forecast.compiler import with_compiler

CHECKOUT = Path(__file__).parent.parent.parent

# Two layers whose weights are cut over eight chips, so that each begins with an all-gather.
COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

chips = topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x2")
cut = NamedSharding(topologies.make_mesh(chips, (8,), ("fsdp",)), PartitionSpec("fsdp", None))
weights = [jax.ShapeDtypeStruct((2048, 2048), jnp.bfloat16, sharding=cut)] * 2
batch = jax.ShapeDtypeStruct((4096, 2048), jnp.bfloat16, sharding=cut)

def apply(weights, batch):
    for weight in weights:
        batch = jnp.tanh(batch @ weight)
    return batch

print(jax.jit(apply).lower(weights, batch).compile().as_text())
"""


def read_environment(**environment: str) -> dict[str, str]:
    """What a shell has in its environment after it has sourced the file."""
    shown = subprocess.run(
        ["bash", "-c", "set -euo pipefail; source launch/tpu_environment.sh; env -0"],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(entry.split("=", 1) for entry in shown.strip("\0").split("\0"))


def compile_with(flags: str) -> subprocess.CompletedProcess[str]:
    """Compiles the layers for chips that are not there, in a process of its own, which reads the flags once."""
    return subprocess.run(
        [sys.executable, "-c", COMPILE],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "LIBTPU_INIT_ARGS": flags,
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5p-16",
            "TPU_WORKER_HOSTNAMES": "localhost",
            # Other processes of this machine may compile for TPUs too.
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_flags_of_the_user_come_last_and_win():
    flags = read_environment(LIBTPU_INIT_ARGS="--xla_enable_async_all_gather=false")["LIBTPU_INIT_ARGS"].split()
    assert flags[0] == "--xla_enable_async_all_gather=true" and flags[-1] == "--xla_enable_async_all_gather=false"


def test_a_training_without_a_tpu_is_no_training_on_the_cpu():
    assert read_environment()["JAX_PLATFORMS"].split(",")[0] == "tpu"


def test_each_flag_has_a_comment():
    lines = (CHECKOUT / "launch/tpu_environment.sh").read_text().splitlines()
    flags = [number for number, line in enumerate(lines) if line.startswith("    --")]
    assert len(flags) == len(read_environment()["LIBTPU_INIT_ARGS"].split())
    assert [lines[number] for number in flags if not lines[number - 1].startswith("    # ")] == []


@with_compiler
@pytest.mark.slow
def test_the_compiler_takes_the_flags_and_they_make_all_gathers_asynchronous():
    def count_fused(compiled):
        assert compiled.returncode == 0, compiled.stderr[-2000:]
        return len(re.findall(r"async_collective_fusion", compiled.stdout))

    assert count_fused(compile_with("")) == 0
    assert count_fused(compile_with(read_environment()["LIBTPU_INIT_ARGS"])) > 0


@with_compiler
@pytest.mark.slow
def test_the_compiler_refuses_a_flag_that_it_does_not_know():
    compiled = compile_with("--xla_enable_async_all_gathers=true")
    assert compiled.returncode != 0
    assert "xla_enable_async_all_gathers" in compiled.stderr
