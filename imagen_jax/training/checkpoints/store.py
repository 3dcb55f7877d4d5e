"""Checkpoints: the state of a run and its position in the data, in one folder, written during training.

    checkpoints/<step>/
        state/          parameters, optimizer state, step, random key
        ema_params/     averaged parameters, separate because sampling reads nothing else
        _CHECKPOINT_METADATA    with the position in the data, so that it always matches the state, and a fingerprint
                                of each array, which is checked on reading (``metadata``)

A folder gets its name only after all its files are written, so a run that is killed while writing leaves the previous
checkpoint. In a bucket the folder has its name from the start, and a file in it marks it complete.
If the newest checkpoint is damaged, the previous one is read, with a warning. Reading to sample changes nothing on the
disk, so it is safe while the run trains. Reading to train renames a damaged checkpoint (``folder``).
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
"""Min bytes that each of several devices writes of a replicated array, because each slice compiles a program."""


class CheckpointStore:
    """The checkpoints of one run. If several processes train together, all must call the same methods in order.

    Args:
        folder: folder of the checkpoints; created with the first one.
        keep: number of newest checkpoints to keep, at least 1.
        keep_every: interval in steps of additional checkpoints that are kept for ever; 0 for none.

    Raises:
        UserError: ``keep`` is below 1, or ``keep_every`` is negative.
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
            # The error that ended the block takes precedence.
            warn(str(unwritten))

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint; None if there is none.

        Raises:
            UserError: all checkpoints are incomplete.
        """
        there = list_steps(self.folder)
        whole = [int(path.name) for path in there if is_complete(path)]
        damaged = {int(path.name): f"{missing_part(path)} is missing" for path in there if not is_leftover(path)}
        if damaged and not whole:
            raise none_is_whole(self.folder, damaged)
        return max(whole, default=None)

    def latest_step_of_all(self, is_wanted: Callable[[int], bool] = lambda step: True) -> int | None:
        """Returns ``latest_step`` once all processes see the same; a network disk may show a new one late.

        Args:
            is_wanted: whether a step counts.

        Raises:
            UserError: all checkpoints are incomplete.
            ForNowError: the processes still see different steps after several tries.
        """

        def look() -> int:
            steps = [int(path.name) for path in list_steps(self.folder) if is_complete(path)]
            return max(filter(is_wanted, steps), default=-1)

        step = see_alike(look, self.folder)
        if step >= 0:
            return step
        # Raises if all checkpoints are incomplete.
        self.latest_step()
        return None

    def count_only(self, counts: Callable[[int], bool]) -> None:
        """Sets which checkpoints count; when the newest are kept, others displace none of them.

        Args:
            counts: whether the checkpoint of a step counts, with the same result in all processes. It is called
                whenever a checkpoint is written.
        """
        self._kept.counts = counts

    def save(self, step: int, state: Any, data_state: dict[str, Any]) -> None:
        """Starts to write a checkpoint, and returns as soon as the arrays have been copied.

        Args:
            step: number of the step, above those of all earlier checkpoints.
            state: a ``TrainState``, or any named tuple with ``ema_params``.
            data_state: JSON-serialisable position in the data, the same in every process.

        Raises:
            NotWrittenError: the disk has no room, or this or the previous checkpoint can't be written; complete ones
                stay.
            UserError: only one of several processes could not write, and can't continue without the others.
            ValueError: a checkpoint of this step or a later one exists.
        """
        self.wait()
        newest = self.latest_step()
        if newest is not None and step <= newest:
            raise ValueError(f"step {step} can't be saved after step {newest}")
        self._write(step, parts_of(state), data_state)

    def save_weights(self, step: int, params: Any) -> None:
        """Writes a checkpoint of averaged parameters alone, which suffices for sampling, and waits for it.

        Args:
            step: number of the step.
            params: averaged parameters.

        Raises:
            UserError: the disk has no room for it, or it can't be written.
        """
        self._write(step, {"ema_params": params}, {})
        self.wait()

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint to train on. Damaged newer ones are renamed, with a warning.

        Args:
            abstract_state: shapes with their shardings; each array gets its sharding and precision from here, on any
                mesh.
            step: step of the checkpoint; None for the newest undamaged one.

        Returns:
            The state and the position in the data.

        Raises:
            UserError: there is no such checkpoint, all are damaged, it does not fit the shapes, its format is newer, or
                the permission to read is missing.
        """
        wanted = parts_of(abstract_state)
        found = self._read_newest(wanted, to_train=True) if step is None else self._read_step(step, wanted)
        return state_of(found), found.data_state

    def restore_ema(self, abstract_params: Any, step: int | None = None) -> tuple[Any, int]:
        """Reads only the averaged parameters of a checkpoint; changes nothing on the disk.

        Args:
            abstract_params: shapes of the parameters; those without a sharding get this process's first device.
            step: step of the checkpoint; None for the newest undamaged one.

        Returns:
            The parameters and their step.

        Raises:
            UserError: as for ``restore``.
        """
        wanted = {"ema_params": place_here(abstract_params)}
        found = self._read_newest(wanted, to_train=False) if step is None else self._read_step(step, wanted)
        return found.parts["ema_params"], found.step

    def restore_newest(self, abstract_state: Any, is_wanted: Callable[[int], bool]) -> tuple[Any, int] | None:
        """Reads the newest undamaged one of some checkpoints; damaged newer ones are renamed.

        Args:
            abstract_state: see ``restore``.
            is_wanted: whether a step counts.

        Returns:
            The state and its step; None if there is no undamaged one, with warnings about the damaged ones.

        Raises:
            UserError: as for ``restore``.
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
        """Waits until all writes have ended. The next ``check``, ``wait`` or ``save`` raises if one failed.

        Raises:
            UserError: only one of several processes could not write.
        """
        try:
            self.wait()
        except NotWrittenError as error:
            self._failed = error

    def check(self) -> None:
        """Checks, without waiting, whether a write has failed.

        Raises:
            UserError: it has, as for ``save``.
        """
        self._raise_failed()
        with self._explained():
            self._look(seconds=0.0)

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: something could not be written, as for ``save``.
        """
        self._raise_failed()
        if self._writer is not None:
            with self._explained():
                while self._look(seconds=1.0):
                    pass
                self._writer.wait()

    def close(self) -> None:
        """Waits until everything is written, and closes Orbax's checkpointer.

        Raises:
            UserError: something could not be written.
        """
        self.wait()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._explained():
                writer.close()

    def _raise_failed(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _look(self, seconds: float) -> bool:
        """Returns whether a write is still running; raises its error if it failed."""
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
        choose = f"choose one of {', '.join(others)}" if others else "there are no others"
        if not path.exists():
            raise UserError(f"{self.folder} has no checkpoint of step {step}: {choose}")
        raise UserError(f"{self.folder} has no complete checkpoint of step {step}: {choose} ({path}: {found})")

    def _read_newest(self, wanted: dict[str, Any], to_train: bool) -> Found:
        found, damaged = self._find(wanted, to_train)
        if found is not None:
            return found
        paths = [self.folder / str(step) for step in damaged]
        if all(is_leftover(path) for path in paths if path.exists()):
            raise UserError(f"{self.folder.parent} has no checkpoint: train it first, with python -m imagen_jax.train")
        raise none_is_whole(self.folder, damaged)

    def _find(
        self, wanted: dict[str, Any], to_train: bool, is_wanted: Callable[[int], bool] = lambda step: True
    ) -> tuple[Found | None, dict[int, str]]:
        """Returns the newest undamaged one of some checkpoints, and by step what is wrong with newer ones."""
        self.settle()
        damaged: dict[int, str] = {}

        def look() -> int:
            # Listed again each time, because a run that trains meanwhile may delete one while it is read here.
            there = [int(path.name) for path in list_steps(self.folder) if not is_empty(path)]
            return max((step for step in there if step not in damaged and is_wanted(step)), default=-1)

        while True:
            step = see_alike(look, self.folder) if to_train else max(gather(look()))
            if step < 0:
                return None, damaged
            found = read_alike(self.folder / str(step), wanted, again=to_train)
            if isinstance(found, Found):
                self._warn_of_damaged(damaged, step, to_train)
                return found, damaged
            damaged[step] = found

    def _warn_of_damaged(self, damaged: dict[int, str], used: int, to_train: bool) -> None:
        """Warns of checkpoints that were not used, and why; before training it sets them aside."""
        seen = [step for step in damaged if max(gather(int((self.folder / str(step)).exists())))]
        if to_train and seen:
            self._let_go()
        for step in seen:
            path = self.folder / str(step)
            if jax.process_index() != 0:
                continue
            if is_leftover(path):
                # This happens in a bucket; it is removed before anything is written.
                warn(f"the checkpoint {path} is not finished: using step {used} instead")
            elif not to_train:
                warn(f"the checkpoint {path} is damaged ({damaged[step]}): using step {used} instead")
            else:
                with self._explained():
                    name = set_aside(path)
                sentence = f"the checkpoint {path} is damaged ({damaged[step]}) and kept as {name}"
                warn(f"{sentence}: training continues from step {used}")
        if to_train and seen:
            wait_for_first("damaged checkpoints set aside")

    def _write(self, step: int, parts: dict[str, Any], data_state: dict[str, Any]) -> None:
        with self._explained():
            if jax.process_count() > 1 and not in_bucket(self.folder):
                # A process would wait long for another that failed, so all continue or all give up. A bucket refuses
                # all processes alike, and a temporary file in the folder would confuse processes that list it.
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
        """Drops Orbax's checkpointer, which caches the content of the folder."""
        writer, self._writer, self._writing = self._writer, None, None
        if writer is not None and jax.process_count() == 1:
            try:
                writer.close()
            except Exception as error:
                # It raises an error again that was already reported.
                if explain_refusal(self.folder, error) is None:
                    raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a write error of a disk or a bucket, maybe late from the background, into a ``UserError``."""
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
