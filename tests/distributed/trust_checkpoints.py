"""What several processes make of checkpoints that one of them can't read or write. To be run by simulate_hosts.

trust_checkpoints.py FOLDER CASE --coordinator=… …
"""

import resource
import shutil
import time
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from imagen_jax.runtime.distributed_flags import join_as_flagged
from imagen_jax.runtime.main import run_main
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.training.checkpoints import folder as checkpoint_files
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.checkpoints.write_errors import NotWrittenError
from imagen_jax.training.state import TrainState

CASE = flags.DEFINE_string("case", None, "Which.")
FOLDER = flags.DEFINE_string("folder", None, "Where.")


def make(mesh, number):
    """A state over all devices: a sharded array and others that all have."""
    split, everywhere = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec())

    def build():
        kernel = jax.random.normal(jax.random.key(number), (64, 32))
        return TrainState(jnp.int32(number), {"kernel": kernel}, {"kernel": kernel + 1}, {}, jax.random.key(number))

    shapes = jax.eval_shape(build)
    placement = jax.tree.map(lambda leaf: split if leaf.ndim else everywhere, shapes)
    wanted = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, placement
    )
    return jax.jit(build, out_shardings=placement)(), wanted


def restore(store, wanted, mesh):
    state, data_state = store.restore(wanted)
    expected, _ = make(mesh, data_state["step"])
    same = jax.jit(lambda one, other: jnp.all(one == other))(state.params["kernel"], expected.params["kernel"])
    print(f"read {data_state['step']}, as written: {bool(same)}", flush=True)


def flip(store, wanted, mesh):
    """Bytes all over each file of numbers change, for two processes leave parts that none reads: both see it."""
    if jax.process_index() == 0:
        for file in (store.folder / "2" / "state" / "d").iterdir():
            content = bytearray(file.read_bytes())
            for position in range(len(content) // 4, len(content), 61):
                content[position] ^= 4
            file.write_bytes(content)
    restore(store, wanted, mesh)


def one_cannot_read(store, wanted, mesh):
    """Process 1 alone finds the newest one damaged."""
    load = ocp.load_checkpointables

    def fail(path, parts):
        if path.name == "2":
            raise ValueError("DATA_LOSS: as if")
        return load(path, parts)

    if jax.process_index() == 1:
        ocp.load_checkpointables = fail
    restore(store, wanted, mesh)


def one_sees_late(store, wanted, mesh):
    """Process 1 has an old listing of the folder for some seconds."""
    real, began = checkpoint_files.names_in, time.monotonic()

    def see(folder):
        names = real(folder)
        return [path for path in names if path.name != "2"] if time.monotonic() - began < 3 else names

    if jax.process_index() == 1:
        checkpoint_files.names_in = see
    print(f"the newest is {store.latest_step_of_all()}", flush=True)
    restore(store, wanted, mesh)


def one_has_no_room(store, wanted, mesh):
    """Process 1 alone has no room: neither writes, both continue, and later both write."""
    state, _ = make(mesh, 3)
    usage, real = namedtuple("usage", "total used free"), shutil.disk_usage
    if jax.process_index() == 1:
        shutil.disk_usage = lambda path: usage(10, 10, 10)
    try:
        store.save(3, state, {"step": 3})
    except NotWrittenError as error:
        print(f"not written: {error.what}", flush=True)
    shutil.disk_usage = real
    store.save(3, state, {"step": 3})
    store.wait()
    restore(store, wanted, mesh)


def one_fails_while_writing(store, wanted, mesh):
    """Process 1 alone can't write its part: it ends with an error, and so does the other, which waits for it."""
    state, _ = make(mesh, 3)
    if jax.process_index() == 1:
        # The few bytes that are written to see whether it can be fit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
    store.save(3, state, {"step": 3})
    store.wait()


def main():
    join_as_flagged()
    mesh = make_mesh({"data": 1, "fsdp": 4})
    with CheckpointStore(Path(FOLDER.value)) as store:
        for step in (1, 2):
            state, wanted = make(mesh, step)
            store.save(step, state, {"step": step})
        store.wait()
        globals()[CASE.value](store, wanted, mesh)


if __name__ == "__main__":
    run_main(main)
