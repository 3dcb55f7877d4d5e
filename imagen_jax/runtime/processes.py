"""The processes of one run, one per host: joining, barriers, broadcasts, checks of agreement, and exits.

    join -> broadcast, check_agreement, barrier -> leave

In a run of a single process these functions coordinate nothing. Several processes communicate through the key-value
store of JAX's coordination service, which runs in process 0. The store needs no devices, so it works before they are
initialised and while they hang. Every few seconds each process writes a heartbeat with its last step there, and reads
the others' heartbeats:

| event in one process | reaction of the others |
|---|---|
| it ends with an error | exit within seconds; print its index and message |
| it receives Ctrl-C | exit within seconds; in training, save a checkpoint first (``interrupts``) |
| it is killed, or its host is lost or hangs | exit after ``heartbeat_seconds`` and a tenth more; print its index |
| it is process 0 and is lost | exit at once if the connection breaks, otherwise as above |
| it is suspended for that long and resumes | have exited; the suspended one also exits with a message |

They exit with status 3 (``PEER_LOST``), or 130 after Ctrl-C. JAX alone would leave them waiting in a collective, and
abort them later. ``process_group`` implements the heartbeats.
"""

import json
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
from jax.errors import JaxRuntimeError

from imagen_jax.errors import LeavingError, UserError
from imagen_jax.runtime import coordination
from imagen_jax.runtime.exit_status import ExitStatus
from imagen_jax.runtime.process_group import KEYS, ProcessGroup
from imagen_jax.storage.folder_locks import locked
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path

Result = TypeVar("Result")

BARRIER_MILLISECONDS = 24 * 3600 * 1000
"""Timeout of barriers and broadcasts in milliseconds.

It is long, because a process may first build a data set. If that process is lost, the watch thread ends the wait.
"""

JOIN_SECONDS = 300
"""Max seconds that a process waits at the start for the others."""

SECONDS_TO_SEE_A_FILE = 20.0
"""Max seconds for a network disk to show a file that another host has written."""


_group: ProcessGroup | None = None


def join(coordinator: str | None, count: int | None, index: int | None, heartbeat_seconds: float) -> None:
    """Joins the other processes of the run. Call it before any use of a device.

    Args:
        coordinator: ``host:port`` of process 0; None if JAX detects the cluster itself, as on a TPU pod.
        count: number of processes; None if JAX detects it.
        index: index of this process, from 0; None if JAX detects it.
        heartbeat_seconds: max seconds without a heartbeat of a process before the others exit.

    Raises:
        UserError: JAX finds no other processes.
    """
    global _group
    state = coordination.find_state()
    coordination.call_on_abort(lambda: explain_abort(coordinator))
    coordination.postpone_preemption_notices()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=JOIN_SECONDS,
            # Longer than our timeout, so that our message comes first. JAX's is for a process whose watch thread hangs.
            heartbeat_timeout_seconds=int(2 * heartbeat_seconds + 10),
            cluster_detection_method=None if coordinator is None else "deactivate",
        )
    except ValueError as error:
        raise UserError(
            f"--distributed finds no other hosts here ({error}): use it on a TPU pod, and elsewhere --coordinator, "
            "--process_count and --process_index"
        ) from error
    address = state.coordinator_address or ""
    _group = ProcessGroup(state.client, state.process_id, state.num_processes, address, heartbeat_seconds)
    _group.start()


def leave() -> None:
    """Waits for all processes to finish, then shuts JAX's distributed system down."""
    global _group
    if _group is not None:
        # A process that left early would look lost to processes that are still writing.
        barrier("the end")
        _group.stop()
        _group = None
        jax.distributed.shutdown()


def is_multi_process() -> bool:
    """Returns whether this process has joined a run of several processes."""
    return _group is not None


def is_process_zero() -> bool:
    """Returns whether this process writes the shared files: it is process 0, or the only process."""
    return _group is None or _group.index == 0


def note_step(number: int) -> None:
    """Records the last completed step, for the next heartbeat."""
    if _group is not None:
        _group.step = _group.steps[_group.index] = number


def last_steps() -> dict[int, int]:
    """Returns the last completed step by process index, a few seconds old; empty for a single process."""
    return {} if _group is None else dict(_group.steps)


def barrier(purpose: str) -> None:
    """Waits until all processes call this function. They must make the same calls in the same order."""
    if _group is not None:
        _group.client.wait_at_barrier(f"{KEYS}meet/{next(_group.numbers)}/{purpose}", BARRIER_MILLISECONDS)


def run_on_process_zero_first(act: Callable[[], Result]) -> Result:
    """Runs ``act`` on process 0, then on all other processes at the same time, and returns its result.

    This suits an ``act`` that creates files on disks that the hosts may share. ``act`` must reuse existing files: on a
    shared disk process 0 creates them and the others find them; on separate disks each process creates its own.
    """
    if is_process_zero():
        result = act()
        # Without this barrier the others would create the same files concurrently, or read incomplete ones.
        barrier("process 0 is ready")
        return result
    barrier("process 0 is ready")
    return act()


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Checks that this process has the same facts as process 0.

    Args:
        facts: JSON-serialisable values by name, such as a config key.

    Raises:
        UserError: a fact differs. The message contains the process, the fact and both values.
    """
    first, here = broadcast(facts), parse_json(json.dumps(facts))
    if _group is None or _group.index == 0:
        return
    for name in sorted({*first, *here}):
        if first.get(name) != here.get(name):
            raise UserError(
                f"process {_group.index} has {name}={here.get(name)!r} and process 0 has {first.get(name)!r}: start "
                "all processes with the same flags, config and data"
            )


def broadcast(value: Any) -> Any:
    """Returns process 0's value on every process. The value must be JSON-serialisable."""
    if _group is None:
        return value
    key = f"{KEYS}said/{next(_group.numbers)}"
    if _group.index == 0:
        _group.client.key_value_set(key, json.dumps(value))
        return value
    return parse_json(_group.client.blocking_key_value_get(key, BARRIER_MILLISECONDS))


def check_shared(folder: Path) -> None:
    """Checks that all processes see the same folder, which must exist on process 0.

    Raises:
        UserError: this process does not see a file that process 0 has written to the folder.
    """
    if _group is None:
        return
    key = f"{KEYS}token/{next(_group.numbers)}"
    if _group.index == 0:
        token = folder / f".seen-by-all-{secrets.token_hex(8)}"
        token.write_text("Written to see whether all hosts share this folder.\n")
        _group.client.key_value_set(key, token.name)
        # The file must stay until all processes have seen it.
        barrier("the token was seen")
        token.unlink()
        return
    token = folder / _group.client.blocking_key_value_get(key, BARRIER_MILLISECONDS)
    began = time.monotonic()
    while not token.exists():
        if time.monotonic() - began > SECONDS_TO_SEE_A_FILE:
            raise UserError(
                f"process {_group.index} does not see in {folder} what process 0 writes there: put --workdir on "
                "a disk that all hosts share, or into a bucket (gs://BUCKET/FOLDER)"
            )
        time.sleep(0.2)
    barrier("the token was seen")


@contextmanager
def lock_on_process_zero(folder: Path, flag: str) -> Iterator[Callable[[], None]]:
    """Locks a folder against other runs while the block runs. Process 0 holds the lock for all processes.

    Args:
        folder: existing folder that the run writes to.
        flag: the flag that names the folder, for messages.

    Yields:
        A function that raises ``UserError`` if the folder is gone or another run has it. It does nothing on processes
        other than 0.

    Raises:
        ForNowError: another run holds the folder.
        UserError: the folder was deleted, moved or replaced while the block ran.
    """
    if not is_process_zero():
        yield lambda: None
        return
    with locked(folder, flag) as lock:
        yield lock.check


@contextmanager
def announcing_exit() -> Iterator[None]:
    """Announces an error of the block to the other processes, so that they exit too and print the reason.

    After a ``LeavingError`` it waits for the other processes instead, which all leave after the same step.
    """
    try:
        yield
    except (JaxRuntimeError, ValueError) as error:
        # A connection that breaks during the launch of a program raises a ValueError.
        if isinstance(error, JaxRuntimeError) or "Gloo" in str(error):
            wait_for_lost_process(error)
        announce_exit(f"{str(error).partition(chr(10))[0] or type(error).__name__} (its own output has the traceback)")
        raise
    except LeavingError:
        # All processes leave after the same step.
        leave()
        raise
    except UserError as error:
        announce_exit(str(error))
        raise
    except KeyboardInterrupt:
        announce_exit("somebody pressed Ctrl-C there", interrupted=True)
        raise
    except BaseException as error:
        announce_exit(f"{type(error).__name__}: {error} (its own output has the traceback)")
        raise


def wait_for_lost_process(error: Exception) -> None:
    """Waits after a failed collective for as long as the detection of a lost process takes.

    If a process is lost, the watch thread ends this process during the wait, with a better message than the error's.
    """
    # A lost process does not cause an out-of-memory error.
    if _group is not None and "RESOURCE_EXHAUSTED" not in str(error):
        seconds = _group.heartbeat_seconds + 3 * _group.interval
        print(f"{str(error).splitlines()[0]}: looking {seconds:.0f} s for a lost process", file=sys.stderr, flush=True)
        time.sleep(seconds)


def announce_exit(sentence: str, interrupted: bool = False) -> None:
    """Announces to the other processes that this one exits, with the reason and whether it is Ctrl-C."""
    if _group is not None:
        _group.announce_exit(sentence, interrupted)


def note_interruption() -> None:
    """Records in the store that this process received Ctrl-C. The others continue until all exit together."""
    if _group is not None:
        _group.note_interruption()


def is_interrupted() -> bool:
    """Returns whether any process has received Ctrl-C. All processes must call it together and get the same result."""
    return bool(broadcast(_group is not None and _group.is_interrupted()))


@contextmanager
def exiting_at_once() -> Iterator[None]:
    """Exits this process at the end of a block that has not called ``leave``.

    A normal exit would wait for the other processes. In a run of a single process it does nothing.
    """
    try:
        yield
    except SystemExit as error:
        if _group is not None:
            exit_now(error.code if isinstance(error.code, int) else int(error.code is not None))
        raise
    except BaseException:
        if _group is not None:
            traceback.print_exc()
            exit_now(ExitStatus.DEFECT)
        raise
    if _group is not None:
        exit_now(ExitStatus.DONE)


def end(sentence: str) -> NoReturn:
    """Prints an error and exits with status ``PEER_LOST`` after the loss of another process.

    Any thread may call it, because the main thread may hang in a collective.
    """
    print(f"error: {sentence}", file=sys.stderr)
    exit_now(ExitStatus.PEER_LOST)


def exit_now(status: int) -> NoReturn:
    """Exits this process at once, without waiting for the others."""
    if _group is not None:
        _group.exit_now(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def explain_abort(coordinator: str | None) -> None:
    """Prints the reason and exits with status ``PEER_LOST`` if JAX aborts this process because of another one.

    Args:
        coordinator: ``host:port`` of process 0; None if JAX detects it.
    """
    if _group is None:
        end(
            f"not all processes came to {coordinator or 'process 0'} within {JOIN_SECONDS} s: start all of them, "
            "with the same --coordinator and --process_count, each with its own --process_index"
        )
    sentence = _group.explain_abort()
    if sentence is not None:
        _group.end(sentence)
