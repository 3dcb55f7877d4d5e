"""Checkpoints: the whole state of a run and its position in the data, in one folder, written while training goes on.

    checkpoints/<step>/
        state/          parameters, optimizer, step, random key
        ema_params/     the averaged parameters, on their own: sampling reads nothing else
        _CHECKPOINT_METADATA    with the position in the data, so that the two can't come apart

A folder gets its name only when all in it is written, so a run killed while writing leaves the checkpoint before it.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from imagen_jax.errors import UserError

SPARE_ROOM = 1.2
"""Free disk space wanted before writing, over the size of the state."""


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made when the first is written.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder = Path(folder).absolute()
        self._keep = keep
        self._opened: ocp.training.Checkpointer | None = None

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _checkpointer(self) -> ocp.training.Checkpointer:
        if self._opened is None:
            newest = ocp.training.preservation_policies.LatestN(self._keep)
            try:
                self._opened = ocp.training.Checkpointer(self.folder, preservation_policy=newest)
            except OSError as error:
                raise UserError(
                    f"the checkpoints in {self.folder} can't be opened ({error}): mend the folder"
                ) from error
        return self._opened

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint; None where there is none."""
        if not self.folder.is_dir():
            return None
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: Any, data_state: dict[str, Any]) -> None:
        """Begins to write a checkpoint, and returns as soon as the arrays have been copied.

        Args:
            step: its number.
            state: a ``TrainState``, or any named tuple with ``ema_params``.
            data_state: position in the data, as JSON can hold it.

        Raises:
            UserError: the disk has no room for it, or the folder can't be written to; what was there stays.
        """
        self.check_room(state)
        try:
            self._checkpointer.save_checkpointables_async(
                step,
                {"state": state._replace(ema_params=()), "ema_params": state.ema_params},
                custom_metadata={"data_state": data_state},
                force=True,
            )
        except OSError as error:
            raise UserError(
                f"the checkpoint of step {step} can't be written into {self.folder} ({error.strerror}): make the "
                "folder writable, then run again to continue from the one before"
            ) from error

    def check_room(self, state: Any) -> None:
        """Checks that the disk holds another checkpoint.

        Raises:
            UserError: it doesn't; names the megabytes wanted and free.
        """
        wanted = SPARE_ROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < wanted:
            raise UserError(
                f"a checkpoint takes {wanted / 1e6:.0f} MB and {existing} has {free / 1e6:.0f} MB free: make room, "
                "then run again to continue from the last checkpoint"
            )

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Reads the newest checkpoint.

        Args:
            abstract_state: shapes with their shardings; each array is put where its shape says, on whatever mesh.

        Returns:
            The state and the position in the data.

        Raises:
            UserError: there is no checkpoint, or it does not fit the shapes.
        """
        step = self.need_step()
        self.check_fits(step, abstract_state.ema_params)
        wanted = {"state": abstract_state._replace(ema_params=()), "ema_params": abstract_state.ema_params}
        try:
            read = self._checkpointer.load_checkpointables(step, wanted)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"the checkpoint {self.folder / str(step)} does not fit this config's optimizer: use the config it was "
                "trained with, or another --workdir"
            ) from error
        metadata = self._checkpointer.checkpointables_metadata(step)
        return read["state"]._replace(ema_params=read["ema_params"]), metadata.custom_metadata["data_state"]

    def restore_ema(self, abstract_params: Any) -> tuple[Any, int]:
        """Reads only the averaged parameters of the newest checkpoint, onto the first device.

        Args:
            abstract_params: their shapes.

        Returns:
            The parameters and the step.

        Raises:
            UserError: there is no checkpoint, or it does not fit the shapes.
        """
        step = self.need_step()
        self.check_fits(step, abstract_params)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), abstract_params)
        return self._checkpointer.load_checkpointables(step, {"ema_params": placed})["ema_params"], step

    def need_step(self) -> int:
        """The newest step.

        Raises:
            UserError: there is no checkpoint.
        """
        step = self.latest_step()
        if step is None:
            raise UserError(
                f"{self.folder.parent} holds no checkpoint: train it first, with python -m imagen_jax.train"
            )
        return step

    def check_fits(self, step: int, abstract_params: Any) -> None:
        """Checks the parameters of a checkpoint against the shapes that a config makes.

        Raises:
            UserError: they differ; names the first parameter that does, with both shapes.
        """
        saved = shapes_by_name(self._checkpointer.checkpointables_metadata(step).metadata["ema_params"])
        wanted = shapes_by_name(abstract_params)
        for name in sorted({*saved, *wanted}):
            if saved.get(name) != wanted.get(name):
                raise UserError(
                    f"the checkpoint {self.folder / str(step)} does not fit the config: the parameter {name} has the "
                    f"shape {saved.get(name, 'none')} there and {wanted.get(name, 'none')} here; use the config it was "
                    "trained with, or another --workdir"
                )

    def close(self) -> None:
        """Waits until all is written."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf of nested dicts, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
