"""Checkpoints: the whole state of a run and its position in the data, in one folder, written while training goes on.

    checkpoints/<step>/
        state/          parameters, optimizer, step, random key
        ema_params/     the averaged parameters, on their own: sampling reads nothing else
        _CHECKPOINT_METADATA    with the position in the data, so that the two can't come apart, and a fingerprint of
                                each array, which is looked at again when it is read (``checkpoint_records``)

A folder gets its name only when all in it is written, so a run killed while writing leaves the checkpoint before it. In
a bucket it has its name from the first, and a file in it says when all is written.
Where the newest one is damaged, the one before it is read, with a sentence. Reading to sample changes nothing on the
disk: one may sample from a run that trains; reading to train gives a damaged one another name (``checkpoint_files``).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, absolute, in_bucket, to_path
from imagen_jax.training.checkpoints.folder import (
    Kept,
    gather,
    is_complete,
    is_empty,
    is_leftover,
    list_steps,
    missing_part,
    none_is_whole,
    remove_leftovers,
    see_alike,
    set_aside,
    wait_for_first,
    warn,
)
from imagen_jax.training.checkpoints.metadata import write_record
from imagen_jax.training.checkpoints.reading import Found, parts_of, place_here, read_alike, state_of
from imagen_jax.training.checkpoints.write_errors import (
    FAILED_WRITES,
    NotWrittenError,
    ending_all,
    explain_refusal,
    is_news,
    lack_of_room,
    refusal_of_bytes,
    refuse_alike,
)

MIN_SLICE = 2**20
"""Bytes of an array that each of several devices writes, where all have the whole: a slice is a program to compile."""


class CheckpointStore:
    """The checkpoints of one run. Where several processes train together, each calls the same methods in turn.

    Args:
        folder: where they lie; made when the first is written.
        keep: how many of the newest are kept.
        keep_every: beside them, one in so many steps is kept for ever; 0: none.

    Raises:
        UserError: none would be kept.
    """

    def __init__(self, folder: str | Path, keep: int = 2, keep_every: int = 0) -> None:
        self.folder = absolute(to_path(folder))
        self._kept = Kept(keep, keep_every)
        self._writer: ocp.training.Checkpointer | None = None
        self._writing: Any = None
        self._failed: NotWrittenError | None = None

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.close()
        except UserError as unwritten:
            if kind is None:
                raise
            # What ended the block counts more.
            warn(str(unwritten))

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint; None where there is none.

        Raises:
            UserError: there are only such as lack a part.
        """
        there = list_steps(self.folder)
        whole = [int(path.name) for path in there if is_complete(path)]
        damaged = {int(path.name): f"{missing_part(path)} is missing" for path in there if not is_leftover(path)}
        if damaged and not whole:
            raise none_is_whole(self.folder, damaged)
        return max(whole, default=None)

    def latest_step_of_all(self, is_wanted: Callable[[int], bool] = lambda step: True) -> int | None:
        """``latest_step``, once all processes see the same; a network's disk shows some of them a new one late.

        Args:
            is_wanted: which steps count.

        Raises:
            UserError: there are only such as lack a part.
            ForNowError: the processes go on seeing different ones.
        """

        def look() -> int:
            steps = [int(path.name) for path in list_steps(self.folder) if is_complete(path)]
            return max(filter(is_wanted, steps), default=-1)

        step = see_alike(look, self.folder)
        if step >= 0:
            return step
        # Are there such as lack a part?
        self.latest_step()
        return None

    def count_only(self, counts: Callable[[int], bool]) -> None:
        """Has the others push out none of those checkpoints whose steps count, when the newest are kept.

        Args:
            counts: asked with a step when the next checkpoint is written; the same in all processes.
        """
        self._kept.counts = counts

    def save(self, step: int, state: Any, data_state: dict[str, Any]) -> None:
        """Begins to write a checkpoint, and returns as soon as the arrays have been copied.

        Args:
            step: its number, above those before.
            state: a ``TrainState``, or any named tuple with ``ema_params``.
            data_state: position in the data, as JSON can hold it; the same in every process.

        Raises:
            NotWrittenError: the disk has no room for it, or this one or the one before can't be written; those that are
                complete stay.
            UserError: likewise, in one of several processes only: it can't go on without the others.
            ValueError: there is a checkpoint of this step or a later one.
        """
        self.wait()
        newest = self.latest_step()
        if newest is not None and step <= newest:
            raise ValueError(f"step {step} can't be saved after step {newest}")
        self._write(step, parts_of(state), data_state)

    def save_weights(self, step: int, params: Any) -> None:
        """Writes a checkpoint that holds averaged parameters alone, which is enough to sample from, and waits for it.

        Args:
            step: its number.
            params: the parameters.

        Raises:
            UserError: the disk has no room for it, or it can't be written.
        """
        self._write(step, {"ema_params": params}, {})
        self.wait()

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint to train on. A damaged one that is newer gets another name, and a sentence says so.

        Args:
            abstract_state: shapes with their shardings; each array is put where its shape says, on whatever mesh, in
                whatever precision.
            step: which one; the newest that is whole, if not given.

        Returns:
            The state and the position in the data.

        Raises:
            UserError: there is no such checkpoint or none is whole, it does not fit the shapes, is of a newer format,
                or may not be read.
        """
        wanted = parts_of(abstract_state)
        found = self._read_newest(wanted, to_train=True) if step is None else self._read_step(step, wanted)
        return state_of(found), found.data_state

    def restore_ema(self, abstract_params: Any, step: int | None = None) -> tuple[Any, int]:
        """Reads only the averaged parameters of a checkpoint; nothing on the disk changes.

        Args:
            abstract_params: their shapes; those without a sharding go onto this process's first device.
            step: which one; the newest that is whole, if not given.

        Returns:
            The parameters and their step.

        Raises:
            UserError: as ``restore``.
        """
        wanted = {"ema_params": place_here(abstract_params)}
        found = self._read_newest(wanted, to_train=False) if step is None else self._read_step(step, wanted)
        return found.parts["ema_params"], found.step

    def restore_newest(self, abstract_state: Any, is_wanted: Callable[[int], bool]) -> tuple[Any, int] | None:
        """Reads the newest of some checkpoints that is whole; a damaged one that is newer gets another name.

        Args:
            abstract_state: see ``restore``.
            is_wanted: which steps count.

        Returns:
            The state and its step; None where none of them is whole, and warnings say why.

        Raises:
            UserError: as ``restore``.
        """
        wanted = parts_of(abstract_state)
        found, damaged = self._find(wanted, to_train=True, is_wanted=is_wanted)
        if found is None:
            if jax.process_index() == 0:
                for step, reason in damaged.items():
                    warn(f"the checkpoint {self.folder / str(step)} is damaged ({reason})")
            return None
        return state_of(found), found.step

    def settle(self) -> None:
        """Waits until all is written or could not be; the next ``check``, ``wait`` or ``save`` says which.

        Raises:
            UserError: it could not be, in one of several processes only.
        """
        try:
            self.wait()
        except NotWrittenError as error:
            self._failed = error

    def check(self) -> None:
        """Looks, without waiting, whether what is being written has failed.

        Raises:
            UserError: it has, as ``save`` says.
        """
        self._tell_failed()
        with self._explained():
            self._look(seconds=0.0)

    def wait(self) -> None:
        """Waits until all is written.

        Raises:
            UserError: it could not be, as ``save`` says.
        """
        self._tell_failed()
        if self._writer is not None:
            with self._explained():
                while self._look(seconds=1.0):
                    pass
                self._writer.wait()

    def close(self) -> None:
        """Waits until all is written, and lets go of the folder.

        Raises:
            UserError: it could not be written.
        """
        self.wait()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._explained():
                writer.close()

    def _tell_failed(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _look(self, seconds: float) -> bool:
        """Looks whether something is still being written, and raises the error where that failed."""
        if self._writing is None:
            return False
        if FAILED_WRITES and jax.process_count() > 1:
            raise FAILED_WRITES.pop()
        try:
            self._writing.result(timeout=seconds)
        except TimeoutError:
            return True
        self._writing = None
        return False

    def _read_step(self, step: int, wanted: dict[str, Any]) -> Found:
        self.settle()
        path = self.folder / str(step)
        found = read_alike(path, wanted)
        if isinstance(found, Found):
            return found
        others = [other.name for other in list_steps(self.folder) if is_complete(other) and other != path]
        choose = f"choose one of {', '.join(others)}" if others else "there is no other"
        if not path.exists():
            raise UserError(f"{self.folder} holds no checkpoint of step {step}: {choose}")
        raise UserError(f"{self.folder} holds no complete checkpoint of step {step}: {choose} ({path}: {found})")

    def _read_newest(self, wanted: dict[str, Any], to_train: bool) -> Found:
        found, damaged = self._find(wanted, to_train)
        if found is not None:
            return found
        paths = [self.folder / str(step) for step in damaged]
        if all(is_leftover(path) for path in paths if path.exists()):
            raise UserError(
                f"{self.folder.parent} holds no checkpoint: train it first, with python -m imagen_jax.train"
            )
        raise none_is_whole(self.folder, damaged)

    def _find(
        self, wanted: dict[str, Any], to_train: bool, is_wanted: Callable[[int], bool] = lambda step: True
    ) -> tuple[Found | None, dict[int, str]]:
        """The newest of some checkpoints that is whole, and what is wrong with those that are newer."""
        self.settle()
        damaged: dict[int, str] = {}

        def look() -> int:
            # Listed anew each time: who samples from a run that trains may lose one while reading it.
            there = [int(path.name) for path in list_steps(self.folder) if not is_empty(path)]
            return max((step for step in there if step not in damaged and is_wanted(step)), default=-1)

        while True:
            step = see_alike(look, self.folder) if to_train else max(gather(look()))
            if step < 0:
                return None, damaged
            found = read_alike(self.folder / str(step), wanted, again=to_train)
            if isinstance(found, Found):
                self._tell_damaged(damaged, step, to_train)
                return found, damaged
            damaged[step] = found

    def _tell_damaged(self, damaged: dict[int, str], used: int, to_train: bool) -> None:
        """Says which checkpoints were not used, and why; before training they are set aside."""
        seen = [step for step in damaged if max(gather(int((self.folder / str(step)).exists())))]
        if to_train and seen:
            self._let_go()
        for step in seen:
            path = self.folder / str(step)
            if jax.process_index() != 0:
                continue
            if is_leftover(path):
                # In a bucket; it is removed before anything is written.
                warn(f"the checkpoint {path} is not finished, so that of step {used} is used")
            elif not to_train:
                warn(f"the checkpoint {path} is damaged ({damaged[step]}), so that of step {used} is used")
            else:
                with self._explained():
                    name = set_aside(path)
                sentence = f"the checkpoint {path} is damaged ({damaged[step]}) and kept as {name}"
                warn(f"{sentence}: training goes on from step {used}")
        if to_train and seen:
            wait_for_first("damaged checkpoints set aside")

    def _write(self, step: int, parts: dict[str, Any], data_state: dict[str, Any]) -> None:
        with self._explained():
            if jax.process_count() > 1 and not in_bucket(self.folder):
                # One process that waits for another's part would wait for long: all go on, or all give up. What a
                # bucket refuses it refuses to all, and a folder that has a file for a moment confuses who lists it.
                refuse_alike(refusal_of_bytes(self.folder))
            writer = self._open_writer()
            refuse_alike(lack_of_room(self.folder, parts))
            FAILED_WRITES.clear()
            self._writing = writer.save_checkpointables_async(
                step, parts, custom_metadata=write_record(data_state, parts), force=True
            )

    def _open_writer(self) -> ocp.training.Checkpointer:
        if self._writer is None:
            logging.getLogger("absl").addFilter(is_news)
            remove_leftovers(self.folder, self._kept)
            context = ocp.Context()
            context.array.saving.min_slice_bytes_for_replica_parallel = MIN_SLICE
            self._writer = ocp.training.Checkpointer(self.folder, preservation_policy=self._kept, context=context)
        return self._writer

    def _let_go(self) -> None:
        """Forgets what Orbax remembers of the folder."""
        writer, self._writer, self._writing = self._writer, None, None
        if writer is not None and jax.process_count() == 1:
            try:
                writer.close()
            except Exception as error:
                # It complains once more of what has been told.
                if explain_refusal(self.folder, error) is None:
                    raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a disk's or a bucket's refusal into a sentence; writing goes on in the background: it may come late."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            refusal = explain_refusal(self.folder, error)
            if refusal is None:
                raise
            self._let_go()
            raise NotWrittenError(refusal) if jax.process_count() == 1 else ending_all(refusal, error) from error
