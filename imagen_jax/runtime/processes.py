"""The processes of one run, one on each host: who we are, what all agree on, and what ends the rest when one is lost.

    join -> agree, take turns, meet -> leave

Alone, as most runs are, all of this does nothing. Together, the processes speak through the key-value store of JAX's
coordination service, which process 0 keeps; no device takes part, so it works before there are any and while they hang.
Each process writes there every few seconds that it lives and which step it has done, and reads the same of the others:

| what happens to one | what the others do |
|---|---|
| it ends with an error | end within seconds, and say which one it was and its sentence |
| somebody presses Ctrl-C there | end within seconds; see ``interrupts`` for a training |
| it is killed, or its host is gone or hangs | end after ``heartbeat_seconds`` and a tenth more, and say which one |
| it was process 0 | end at once where its connections break, else as above |
| it stands still for that long, and goes on | have ended; it ends too, and says so |

They end with status 3 (``PEER_LOST``), or 130 (``INTERRUPTED``) after Ctrl-C. JAX alone would leave them waiting in a
collective operation, then abort them. ``process_group`` watches.
"""

import ctypes
import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import distributed
from jax.errors import JaxRuntimeError

from imagen_jax.errors import LeavingError, UserError
from imagen_jax.runtime import signals as notices
from imagen_jax.runtime.exit_status import ExitStatus
from imagen_jax.runtime.process_group import KEYS, ProcessGroup
from imagen_jax.storage.folder_locks import locked
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path

Result = TypeVar("Result")

BARRIER_MILLISECONDS = 24 * 3600 * 1000
"""Milliseconds. Whoever is waited for may build a data set first; if it is lost, the watching thread ends the wait."""

JOIN_SECONDS = 300
"""How long a process waits at the start for the others."""

SECONDS_TO_SEE_A_FILE = 20.0
"""How long a network's disk may take to show one host what another has written."""


_group: ProcessGroup | None = None
_on_abort: Any = None  # kept, for C keeps no reference


def join(coordinator: str | None, count: int | None, index: int | None, heartbeat_seconds: float) -> None:
    """Joins the other processes of the run; before any device is touched.

    Args:
        coordinator: ``host:port`` of process 0; None where JAX finds everything itself, as on a TPU pod.
        count: how many processes there are; None likewise.
        index: which one this is; None likewise.
        heartbeat_seconds: how long a process may give no sign of life before the others end.

    Raises:
        UserError: JAX finds no other processes.
    """
    global _group
    explain_aborts(coordinator)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=JOIN_SECONDS,
            # Ours speaks first, and in a sentence; JAX's is for a process whose watching thread is stuck.
            heartbeat_timeout_seconds=int(2 * heartbeat_seconds + 10),
            cluster_detection_method=None if coordinator is None else "deactivate",
        )
    except ValueError as error:
        raise UserError(
            f"--distributed finds no other hosts here ({error}): use it on a TPU pod, and elsewhere --coordinator, "
            "--process_count and --process_index"
        ) from error
    # JAX has no public way to its key-value store; its own multihost_utils and Orbax take this one.
    state = distributed.global_state
    # From here on it would be deaf to SIGTERM; see there.
    notices.set_preemption_notice(False)
    address = state.coordinator_address or ""
    _group = ProcessGroup(state.client, state.process_id, state.num_processes, address, heartbeat_seconds)
    _group.start()


def leave() -> None:
    """Waits for the others to finish, and parts."""
    global _group
    if _group is not None:
        # Whoever leaves first must not look like a loss to those who still write.
        barrier("the end")
        _group.stop()
        _group = None
        jax.distributed.shutdown()


def is_multi_process() -> bool:
    """Whether there are other processes."""
    return _group is not None


def is_process_zero() -> bool:
    """Whether this process writes what all share: the only one, or process 0."""
    return _group is None or _group.index == 0


def note_step(number: int) -> None:
    """Notes the last step done, for the others to see."""
    if _group is not None:
        _group.step = _group.steps[_group.index] = number


def last_steps() -> dict[int, int]:
    """The last step that each process is known to have done, a few seconds old; alone, nothing."""
    return {} if _group is None else dict(_group.steps)


def barrier(purpose: str) -> None:
    """Waits until all processes are here; each must call it as often as the others, for the same purposes."""
    if _group is not None:
        _group.client.wait_at_barrier(f"{KEYS}meet/{next(_group.numbers)}/{purpose}", BARRIER_MILLISECONDS)


def run_on_process_zero_first(act: Callable[[], Result]) -> Result:
    """Has process 0 act, then all others at once, for what makes files that they may share or not.

    What ``act`` makes it must find when it is there already: on a shared disk process 0 makes it and the others find
    it, and on disks of their own each makes its own.
    """
    if is_process_zero():
        result = act()
        # Until here the others would make the same files at the same time, or read what is half there.
        barrier("process 0 is ready")
        return result
    barrier("process 0 is ready")
    return act()


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Checks that this process has the same facts as process 0.

    Args:
        facts: by their names, such as a config key; values that JSON can hold.

    Raises:
        UserError: one differs; names the process and the fact.
    """
    first, here = broadcast(facts), parse_json(json.dumps(facts))
    if _group is None or _group.index == 0:
        return
    for name in sorted({*first, *here}):
        if first.get(name) != here.get(name):
            raise UserError(
                f"process {_group.index} has {name}={here.get(name)!r} and process 0 has {first.get(name)!r}: start "
                "all processes alike"
            )


def broadcast(value: Any) -> Any:
    """What process 0 says, for what each would find out by itself, one before the other; JSON can hold it."""
    if _group is None:
        return value
    key = f"{KEYS}said/{next(_group.numbers)}"
    if _group.index == 0:
        _group.client.key_value_set(key, json.dumps(value))
        return value
    return parse_json(_group.client.blocking_key_value_get(key, BARRIER_MILLISECONDS))


def check_shared(folder: Path) -> None:
    """Checks that all processes see the same folder, which is there for process 0.

    Raises:
        UserError: this process does not see what process 0 has written there.
    """
    if _group is None:
        return
    key = f"{KEYS}token/{next(_group.numbers)}"
    if _group.index == 0:
        token = folder / f".seen-by-all-{secrets.token_hex(8)}"
        token.write_text("Written to see whether all hosts share this folder.\n")
        _group.client.key_value_set(key, token.name)
        # Until all have looked it must stay.
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
    """Keeps other runs out of a folder while the block runs; process 0 holds it for all.

    Args:
        folder: that the run writes into, which is there.
        flag: that names it, for the sentences.

    Returns:
        What checks, in process 0, that the folder is still there and ours: it raises ``UserError`` where it is not.

    Raises:
        ForNowError: another run is in it.
        UserError: it was deleted, moved or replaced meanwhile.
    """
    if not is_process_zero():
        yield lambda: None
        return
    with locked(folder, flag) as lock:
        yield lock.check


@contextmanager
def announcing_exit() -> Iterator[None]:
    """Tells the other processes when the block ends with an error, so that they end as well and can say why."""
    try:
        yield
    except (JaxRuntimeError, ValueError) as error:
        # A connection that breaks while a program is only being started is a ValueError.
        if isinstance(error, JaxRuntimeError) or "Gloo" in str(error):
            wait_for_lost_process(error)
        announce_exit(f"{str(error).partition(chr(10))[0] or type(error).__name__} (its own output has the traceback)")
        raise
    except LeavingError:
        # All leave after the same step.
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
    """Where an operation over all processes failed, waits for as long as it takes to see that one is lost.

    The watching thread then ends this process, with a better sentence than the error's.
    """
    # For want of memory it needs nobody else.
    if _group is not None and "RESOURCE_EXHAUSTED" not in str(error):
        seconds = _group.heartbeat_seconds + 3 * _group.interval
        print(f"{str(error).splitlines()[0]}: looking {seconds:.0f} s for a lost process", file=sys.stderr, flush=True)
        time.sleep(seconds)


def announce_exit(sentence: str, interrupted: bool = False) -> None:
    """Tells the others that this process ends, why, and whether somebody pressed Ctrl-C."""
    if _group is not None:
        _group.announce_exit(sentence, interrupted)


def note_interruption() -> None:
    """Tells the others that somebody pressed Ctrl-C here; they go on until all leave together."""
    if _group is not None:
        _group.note_interruption()


def is_interrupted() -> bool:
    """Whether somebody has pressed Ctrl-C on any host; all ask together, and get the same answer."""
    return bool(broadcast(_group is not None and _group.is_interrupted()))


@contextmanager
def exiting_at_once() -> Iterator[None]:
    """Ends the process with a block that ends without ``leave``: an orderly exit would wait for the others."""
    try:
        yield
    except SystemExit as error:
        if _group is not None:
            exit_now(error.code if isinstance(error.code, int) else int(error.code is not None))
        raise
    except BaseException:
        if _group is not None:
            traceback.print_exc()
            exit_now(1)
        raise
    if _group is not None:
        exit_now(0)


def end(sentence: str) -> NoReturn:
    """Ends this process because another one did, from whichever thread: the main one may wait for it in vain."""
    print(f"error: {sentence}", file=sys.stderr)
    exit_now(ExitStatus.PEER_LOST)


def exit_now(status: int) -> NoReturn:
    """Ends this process without waiting for the others to end."""
    if _group is not None:
        _group.exit_now(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def explain_aborts(coordinator: str | None) -> None:
    """Has this process say why it is aborted, where the reason is another one.

    JAX's client aborts the process, from a thread of its own, when the others don't come in time and as soon as its
    connection to process 0 breaks; in process 0 its service does when another gave no sign of life for long. The
    callback that jaxlib offers instead crashes (std::bad_cast in 0.10.2), and a Python signal handler would run too
    late.
    """
    global _on_abort

    def on_abort(number: int) -> None:
        if _group is None:
            end(
                f"not all processes came to {coordinator or 'process 0'} within {JOIN_SECONDS} s: start all of them, "
                "with the same --coordinator and --process_count, each with its own --process_index"
            )
        sentence = _group.explain_abort()
        if sentence is not None:
            _group.end(sentence)

    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
