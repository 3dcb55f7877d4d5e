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

They end with status ``LOST``, or ``INTERRUPTED`` after Ctrl-C. JAX alone would leave them waiting in a collective
operation, then abort them. ``company`` watches.
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
from imagen_jax.runtime.company import KEYS, LOST, Company
from imagen_jax.storage.folder_locks import locked
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path

Result = TypeVar("Result")

DAY = 24 * 3600 * 1000
"""Milliseconds. Whoever is waited for may build a data set first; if it is lost, the watching thread ends the wait."""

JOIN_SECONDS = 300
"""How long a process waits at the start for the others."""

SECONDS_TO_SEE_A_FILE = 20.0
"""How long a network's disk may take to show one host what another has written."""


_company: Company | None = None
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
    global _company
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
    notices.hear(False)
    address = state.coordinator_address or ""
    _company = Company(state.client, state.process_id, state.num_processes, address, heartbeat_seconds)
    _company.start()


def leave() -> None:
    """Waits for the others to finish, and parts."""
    global _company
    if _company is not None:
        # Whoever leaves first must not look like a loss to those who still write.
        meet("the end")
        _company.stop()
        _company = None
        jax.distributed.shutdown()


def is_together() -> bool:
    """Whether there are other processes."""
    return _company is not None


def is_first() -> bool:
    """Whether this process writes what all share: the only one, or process 0."""
    return _company is None or _company.index == 0


def note_step(number: int) -> None:
    """Notes the last step done, for the others to see."""
    if _company is not None:
        _company.step = _company.steps[_company.index] = number


def last_steps() -> dict[int, int]:
    """The last step that each process is known to have done, a few seconds old; alone, nothing."""
    return {} if _company is None else dict(_company.steps)


def meet(purpose: str) -> None:
    """Waits until all processes are here; each must call it as often as the others, for the same purposes."""
    if _company is not None:
        _company.client.wait_at_barrier(f"{KEYS}meet/{next(_company.numbers)}/{purpose}", DAY)


def take_turns(act: Callable[[], Result]) -> Result:
    """Has process 0 act, then all others at once, for what makes files that they may share or not.

    What ``act`` makes it must find when it is there already: on a shared disk process 0 makes it and the others find
    it, and on disks of their own each makes its own.
    """
    if is_first():
        result = act()
        # Until here the others would make the same files at the same time, or read what is half there.
        meet("process 0 is ready")
        return result
    meet("process 0 is ready")
    return act()


def agree(facts: Mapping[str, Any]) -> None:
    """Checks that this process has the same facts as process 0.

    Args:
        facts: by their names, such as a config key; values that JSON can hold.

    Raises:
        UserError: one differs; names the process and the fact.
    """
    first, here = said_by_first(facts), parse_json(json.dumps(facts))
    if _company is None or _company.index == 0:
        return
    for name in sorted({*first, *here}):
        if first.get(name) != here.get(name):
            raise UserError(
                f"process {_company.index} has {name}={here.get(name)!r} and process 0 has {first.get(name)!r}: start "
                "all processes alike"
            )


def said_by_first(value: Any) -> Any:
    """What process 0 says, for what each would find out by itself, one before the other; JSON can hold it."""
    if _company is None:
        return value
    key = f"{KEYS}said/{next(_company.numbers)}"
    if _company.index == 0:
        _company.client.key_value_set(key, json.dumps(value))
        return value
    return parse_json(_company.client.blocking_key_value_get(key, DAY))


def check_shared(folder: Path) -> None:
    """Checks that all processes see the same folder, which is there for process 0.

    Raises:
        UserError: this process does not see what process 0 has written there.
    """
    if _company is None:
        return
    key = f"{KEYS}token/{next(_company.numbers)}"
    if _company.index == 0:
        token = folder / f".seen-by-all-{secrets.token_hex(8)}"
        token.write_text("Written to see whether all hosts share this folder.\n")
        _company.client.key_value_set(key, token.name)
        # Until all have looked it must stay.
        meet("the token was seen")
        token.unlink()
        return
    token = folder / _company.client.blocking_key_value_get(key, DAY)
    began = time.monotonic()
    while not token.exists():
        if time.monotonic() - began > SECONDS_TO_SEE_A_FILE:
            raise UserError(
                f"process {_company.index} does not see in {folder} what process 0 writes there: put --workdir on "
                "a disk that all hosts share, or into a bucket (gs://BUCKET/FOLDER)"
            )
        time.sleep(0.2)
    meet("the token was seen")


@contextmanager
def held_by_first(folder: Path, flag: str) -> Iterator[Callable[[], None]]:
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
    if not is_first():
        yield lambda: None
        return
    with locked(folder, flag) as lock:
        yield lock.check


@contextmanager
def ending_told() -> Iterator[None]:
    """Tells the other processes when the block ends with an error, so that they end as well and can say why."""
    try:
        yield
    except (JaxRuntimeError, ValueError) as error:
        # A connection that breaks while a program is only being started is a ValueError.
        if isinstance(error, JaxRuntimeError) or "Gloo" in str(error):
            wait_for_the_lost(error)
        tell(f"{str(error).partition(chr(10))[0] or type(error).__name__} (its own output has the traceback)")
        raise
    except LeavingError:
        # All leave after the same step.
        leave()
        raise
    except UserError as error:
        tell(str(error))
        raise
    except KeyboardInterrupt:
        tell("somebody pressed Ctrl-C there", interrupted=True)
        raise
    except BaseException as error:
        tell(f"{type(error).__name__}: {error} (its own output has the traceback)")
        raise


def wait_for_the_lost(error: Exception) -> None:
    """Where an operation over all processes failed, waits for as long as it takes to see that one is lost.

    The watching thread then ends this process, with a better sentence than the error's.
    """
    # For want of memory it needs nobody else.
    if _company is not None and "RESOURCE_EXHAUSTED" not in str(error):
        seconds = _company.heartbeat_seconds + 3 * _company.interval
        print(f"{str(error).splitlines()[0]}: looking {seconds:.0f} s for a lost process", file=sys.stderr, flush=True)
        time.sleep(seconds)


def tell(sentence: str, interrupted: bool = False) -> None:
    """Tells the others that this process ends, why, and whether somebody pressed Ctrl-C."""
    if _company is not None:
        _company.tell(sentence, interrupted)


def note_interruption() -> None:
    """Tells the others that somebody pressed Ctrl-C here; they go on until all leave together."""
    if _company is not None:
        _company.note_interruption()


def is_interrupted() -> bool:
    """Whether somebody has pressed Ctrl-C on any host; all ask together, and get the same answer."""
    return bool(said_by_first(_company is not None and _company.is_interrupted()))


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Ends the process with a block that ends without ``leave``: an orderly exit would wait for the others."""
    try:
        yield
    except SystemExit as error:
        if _company is not None:
            exit_now(error.code if isinstance(error.code, int) else int(error.code is not None))
        raise
    except BaseException:
        if _company is not None:
            traceback.print_exc()
            exit_now(1)
        raise
    if _company is not None:
        exit_now(0)


def end(sentence: str) -> NoReturn:
    """Ends this process because another one did, from whichever thread: the main one may wait for it in vain."""
    print(f"error: {sentence}", file=sys.stderr)
    exit_now(LOST)


def exit_now(status: int) -> NoReturn:
    """Ends this process without waiting for the others to end."""
    if _company is not None:
        _company.exit_now(status)
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
        if _company is None:
            end(
                f"not all processes came to {coordinator or 'process 0'} within {JOIN_SECONDS} s: start all of them, "
                "with the same --coordinator and --process_count, each with its own --process_index"
            )
        sentence = _company.explain_abort()
        if sentence is not None:
            _company.end(sentence)

    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
