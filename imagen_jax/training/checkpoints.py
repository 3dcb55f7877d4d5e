"""Checkpoints: the whole state of a run and its position in the data, in one folder, written while training goes on.

    checkpoints/<step>/
        state/          parameters, optimizer, step, random key
        ema_params/     the averaged parameters, on their own: sampling reads nothing else
        _CHECKPOINT_METADATA    with the position in the data, so that the two can't come apart

A folder gets its name only when all in it is written, so a run killed while writing leaves the checkpoint before it. In
a bucket it has its name from the first, and a file in it says when all is written.
Reading changes nothing on the disk: one may sample from a run that trains.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from imagen_jax.errors import UserError
from imagen_jax.storage.buckets import MENDS as MENDS_OF_BUCKETS
from imagen_jax.storage.buckets import is_refusal, tell
from imagen_jax.storage.paths import Path, absolute, in_bucket, remove_folder, to_path

COMMITTED = "commit_success.txt"
"""What Orbax writes last. In a bucket, where no folder can be renamed, it alone tells a whole checkpoint."""

SPARE_ROOM = 1.2
"""Free disk space wanted before writing, over the size of the state."""

PARTS = ("_CHECKPOINT_METADATA", "ema_params/_METADATA")
"""What lies in the folder of every checkpoint; ``state/`` may be removed from one that is only to sample from."""

MENDS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "use a --workdir on another disk",
}
"""What helps against the disk's refusals."""


class CheckpointStore:
    """The checkpoints of one run. Where several processes train together, each calls the same methods in turn.

    Args:
        folder: where they lie; made when the first is written.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder = absolute(to_path(folder))
        self._keep = keep
        self._writer: ocp.training.Checkpointer | None = None

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint; None where there is none."""
        return max((int(path.name) for path in list_steps(self.folder) if is_complete(path)), default=None)

    def save(self, step: int, state: Any, data_state: dict[str, Any]) -> None:
        """Begins to write a checkpoint, and returns as soon as the arrays have been copied.

        Args:
            step: its number, above those before.
            state: a ``TrainState``, or any named tuple with ``ema_params``.
            data_state: position in the data, as JSON can hold it; the same in every process.

        Raises:
            UserError: the disk has no room for it, or this one or the one before can't be written; those that are
                complete stay.
            ValueError: there is a checkpoint of this step or a later one.
        """
        with self._explained():
            self.wait()
            newest = self.latest_step()
            if newest is not None and step <= newest:
                raise ValueError(f"step {step} can't be saved after step {newest}")
            self._check_room(state)
            self._open_writer().save_checkpointables_async(
                step,
                {"state": state._replace(ema_params=()), "ema_params": state.ema_params},
                custom_metadata={"data_state": data_state},
                force=True,
            )

    def save_weights(self, step: int, params: Any) -> None:
        """Writes a checkpoint that holds averaged parameters alone, which is enough to sample from, and waits for it.

        Args:
            step: its number.
            params: the parameters.

        Raises:
            UserError: the disk has no room for it, or it can't be written.
        """
        with self._explained():
            self._check_room(params)
            self._open_writer().save_checkpointables_async(
                step, {"ema_params": params}, custom_metadata={"data_state": {}}, force=True
            )
        self.wait()

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint.

        Args:
            abstract_state: shapes with their shardings; each array is put where its shape says, on whatever mesh.
            step: which one; the newest, if not given.

        Returns:
            The state and the position in the data.

        Raises:
            UserError: there is no such checkpoint, it does not fit the shapes, or it can't be read.
        """
        path = self._find(step)
        wanted = {"state": abstract_state._replace(ema_params=()), "ema_params": abstract_state.ema_params}
        read = read_parts(path, wanted)
        data_state = ocp.metadata(path, "ema_params").custom_metadata["data_state"]
        return read["state"]._replace(ema_params=read["ema_params"]), data_state

    def restore_ema(self, abstract_params: Any, step: int | None = None) -> tuple[Any, int]:
        """Reads only the averaged parameters of a checkpoint.

        Args:
            abstract_params: their shapes; those without a sharding go onto this process's first device.
            step: which one; the newest, if not given.

        Returns:
            The parameters and their step.

        Raises:
            UserError: there is no such checkpoint, it does not fit the shapes, or it can't be read.
        """
        path = self._find(step)
        return read_parts(path, {"ema_params": place_here(abstract_params)})["ema_params"], int(path.name)

    def wait(self) -> None:
        """Waits until all is written.

        Raises:
            UserError: it could not be.
        """
        if self._writer is not None:
            with self._explained():
                self._writer.wait()

    def close(self) -> None:
        """Waits until all is written, and lets go of the folder.

        Raises:
            UserError: it could not be written.
        """
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._explained():
                writer.close()

    def _find(self, step: int | None) -> Path:
        self.wait()
        found = self.latest_step() if step is None else step
        if found is None:
            raise UserError(
                f"{self.folder.parent} holds no checkpoint: train it first, with python -m imagen_jax.train"
            )
        path = self.folder / str(found)
        if not is_complete(path):
            complete = [path.name for path in list_steps(self.folder) if is_complete(path)]
            raise UserError(
                f"{self.folder} holds no complete checkpoint of step {found}: choose one of {', '.join(complete)}"
            )
        return path

    def _open_writer(self) -> ocp.training.Checkpointer:
        if self._writer is None:
            logging.getLogger("absl").addFilter(is_news)
            remove_leftovers(self.folder)
            newest = ocp.training.preservation_policies.LatestN(self._keep)
            self._writer = ocp.training.Checkpointer(self.folder, preservation_policy=newest)
        return self._writer

    def _check_room(self, state: Any) -> None:
        if in_bucket(self.folder):
            return
        wanted = SPARE_ROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = float(shutil.disk_usage(existing).free)
        # All go on or all give up: one process that waits for another's part would wait forever.
        if jax.process_count() > 1:
            free = float(multihost_utils.process_allgather(np.float32(free)).min())
        if free < wanted:
            raise UserError(
                f"a checkpoint takes {wanted / 1e6:.0f} MB and {existing} has {free / 1e6:.0f} MB free: "
                "make room, then run again to continue from the last one"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a disk's or a bucket's refusal into a sentence; writing goes on in the background: it may come late."""
        try:
            yield
        except Exception as error:
            if in_bucket(self.folder) and is_refusal(error):
                raise UserError(
                    f"a checkpoint can't be written into {self.folder} ({tell(error)}): {MENDS_OF_BUCKETS}, then run "
                    "again to continue from the last one"
                ) from error
            code = disk_error_code(error)
            if code is None:
                raise
            raise UserError(
                f"a checkpoint can't be written into {self.folder} ({os.strerror(code)}): "
                f"{MENDS.get(code, 'mend that')}, then run again to continue from the last one"
            ) from error


def list_steps(folder: Path) -> list[Path]:
    """The folders that are named for a step, whole or not, in their order."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def is_complete(checkpoint: Path) -> bool:
    """Whether all parts of a checkpoint are there; one half copied or half deleted is no checkpoint."""
    parts = (*PARTS, COMMITTED) if in_bucket(checkpoint) else PARTS
    return all((checkpoint / part).exists() for part in parts)


def remove_leftovers(folder: Path) -> None:
    """Removes what a run killed while it wrote or deleted has left; Orbax would count some of it as checkpoints."""
    if jax.process_index() == 0:
        halves = [path for path in list_steps(folder) if not is_complete(path)]
        for path in [*folder.glob("*.orbax-checkpoint-tmp*"), *halves]:
            remove_folder(path)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("leftovers of checkpoints removed")


def place_here(shapes: Any) -> Any:
    """Shapes with their shardings; those without one get this process's first device."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), shapes
    )


def read_parts(checkpoint: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Reads some parts of a checkpoint onto the shardings of their shapes, after checking that they fit.

    Raises:
        UserError: they don't, or can't be read.
    """
    try:
        # The averaged parameters come first, since they say best what differs.
        for part in sorted(wanted):
            check_fits(checkpoint, ocp.metadata(checkpoint, part).metadata, wanted[part])
        # One by one: where one can't be read, Orbax would complain of the other that nobody awaits.
        return {part: ocp.load_checkpointables(checkpoint, {part: wanted[part]})[part] for part in wanted}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the checkpoint {checkpoint} can't be read: if the disk is well, remove that folder to go on from the one "
            "before"
        ) from error


def check_fits(checkpoint: Path, saved: Any, wanted: Any) -> None:
    """Checks the shapes in a checkpoint against those that a config makes.

    Raises:
        UserError: they differ; names the first that does, with both shapes.
    """
    there, here = shapes_by_name(saved), shapes_by_name(wanted)
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            raise UserError(
                f"the checkpoint {checkpoint} does not fit the config: {name} has the shape {there.get(name, 'none')} "
                f"there and {here.get(name, 'none')} here; use the config it was trained with, or another --workdir"
            )


def shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a tree, by its path; a random key has that of its numbers, as the disk holds it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    shapes = {}
    for path, leaf in leaves:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        numbers = jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf
        shapes[jax.tree_util.keystr(path, simple=True, separator="/")] = tuple(numbers.shape)
    return shapes


def disk_error_code(error: Exception) -> int | None:
    """The number of the operating system's error behind an error of Orbax; None where there is none."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"os_error_code='(\d+)'", str(error))
    return int(told[1]) if told else None


def is_news(record: logging.LogRecord) -> bool:
    """Whether a log line is more than Orbax's copy of an error that it raises as well (about a hundred lines each)."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)
