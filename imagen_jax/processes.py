"""The processes of one run, one on each host: who we are, what all agree on, and what ends the rest when one is lost.

    join -> agree, take turns, meet -> leave

Alone, as most runs are, all of this does nothing. Together, the processes speak through the key-value store of JAX's
coordination service, which process 0 keeps; no device takes part, so it works before there are any and while they hang.
Each process writes there every few seconds that it lives and which step it has done, and reads the same of the others:

| what happens to one | what the others do |
|---|---|
| it ends with an error | end within seconds, and say which one it was and its sentence |
| it is killed, or its host is gone or hangs | end after ``heartbeat_seconds`` and a tenth more, and say which one |
| it was process 0 | end at once where its connections break, else as above |

They end with status ``LOST``. JAX alone would leave them waiting in a collective operation, then abort them.
"""

import ctypes
import itertools
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import distributed
from jax.errors import JaxRuntimeError

from imagen_jax import notices
from imagen_jax.errors import LeavingError, UserError
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path

LOST = 3
"""Exit status of a process that ends because another one did, or never came."""

Result = TypeVar("Result")

KEYS = "imagen_jax/"
DAY = 24 * 3600 * 1000
"""Milliseconds. Whoever is waited for may build a data set first; if it is lost, the watching thread ends the wait."""

JOIN_SECONDS = 300
"""How long a process waits at the start for the others."""

SECONDS_TO_SEE_A_FILE = 20.0
"""How long a network's disk may take to show one host what another has written."""


class Company:
    """This process among the others.

    Args:
        client: of JAX's coordination service.
        index: which process this is.
        count: how many there are.
        coordinator: address of the coordination service, ``host:port``.
        heartbeat_seconds: how long one may give no sign of life.
    """

    def __init__(self, client: Any, index: int, count: int, coordinator: str, heartbeat_seconds: float) -> None:
        self.client = client
        self.index = index
        self.count = count
        self.coordinator = coordinator
        self.heartbeat_seconds = heartbeat_seconds
        self.interval = min(max(heartbeat_seconds / 10, 0.2), 5.0)
        self.numbers = itertools.count()
        self.step = 0
        self.steps = dict.fromkeys(range(count), 0)
        self.has_told = False
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watches the other processes", daemon=True)

    def start(self) -> None:
        """Begins to give signs of life and to look for those of the others."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._left.set()
        self._thread.join()

    def _watch(self) -> None:
        now = time.monotonic()
        lived = {index: ("", now) for index in range(self.count) if index != self.index}
        for beat in itertools.count():
            told, answered = self._exchange(beat)
            now = time.monotonic()
            for index in lived:
                if ended := told.get(f"ended/{index}"):
                    end(f"process {index} has ended: {ended}")
                sign = told.get(f"alive/{index}", "")
                if sign and sign != lived[index][0]:
                    lived[index] = (sign, now)
                    self.steps[index] = int(sign.split()[1])
            silent = [index for index, (_, when) in lived.items() if now - when > self.heartbeat_seconds]
            if silent:
                self._end_without(silent if answered else [0])
            if self._left.wait(self.interval):
                return

    def _exchange(self, beat: int) -> tuple[dict[str, str], bool]:
        """Tells that we live, and returns what all have told, and whether the service answered."""
        try:
            self.client.key_value_set(f"{KEYS}told/alive/{self.index}", f"{beat} {self.step}", allow_overwrite=True)
            told = self.client.key_value_dir_get(f"{KEYS}told/")
        except JaxRuntimeError:
            # Process 0 may be gone, or this host's network; who stays silent for long enough is lost.
            return {}, False
        return {key.partition("told/")[2]: value for key, value in told}, True

    def _end_without(self, silent: list[int]) -> None:
        names = ", ".join(str(index) for index in silent)
        steps = ", ".join(str(self.steps[index]) for index in silent)
        end(
            f"process {names} has given no sign of life for {self.heartbeat_seconds:g} s (last step {steps}), so this "
            f"one, after step {self.step}, ends too: run the same command on all hosts to continue"
        )


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
        tell("it was interrupted")
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


def tell(sentence: str) -> None:
    """Tells the others that this process ends, and why."""
    if _company is None:
        return
    try:
        _company.client.key_value_set(f"{KEYS}told/ended/{_company.index}", sentence, allow_overwrite=True)
    except JaxRuntimeError as error:
        print(f"the other processes could not be told: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
    _company.has_told = True


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
    sys.stdout.flush()
    sys.stderr.flush()
    if _company is not None and _company.index == 0 and _company.has_told:
        # Process 0 keeps the store: the others must have read why it ends before it goes.
        time.sleep(2 * _company.interval + 1)
    os._exit(status)


def explain_aborts(coordinator: str | None) -> None:
    """Has this process say why it is aborted, where the reason is another one.

    JAX's client aborts the process, from a thread of its own, when the others don't come in time and as soon as its
    connection to process 0 breaks. The callback that jaxlib offers instead crashes (std::bad_cast in 0.10.2), and a
    Python signal handler would run too late.
    """
    global _on_abort

    def on_abort(number: int) -> None:
        if _company is None:
            end(
                f"not all processes came to {coordinator or 'process 0'} within {JOIN_SECONDS} s: start all of them, "
                "with the same --coordinator and --process_count, each with its own --process_index"
            )
        if _company.index and not is_reachable(_company.coordinator):
            end(
                f"process 0 at {_company.coordinator} is gone, so this one, after step {_company.step}, ends too: run "
                "the same command on all hosts to continue"
            )

    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


def is_reachable(address: str) -> bool:
    """Whether somebody listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
            return True
    except OSError:
        return False
