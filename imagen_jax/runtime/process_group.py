"""This process among the others of its run: signs of life, and the end of one that has lost another.

    every few seconds: tell the others that this one lives -> read what they told -> end where one is lost

Two threads do it, for what asks the store of process 0 waits for ever where that process is stopped, but not gone:

| thread | what it does |
|---|---|
| the messenger | writes and reads the store |
| the watch | asks no other process; it sees how old the last answer and the last signs are |

A process that stood still itself, as after SIGSTOP or on a machine that slept, finds out when it wakes up: the others
have ended by then.
"""

import itertools
import os
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from jax.errors import JaxRuntimeError

from imagen_jax.runtime.exit_status import ExitStatus

KEYS = "imagen_jax/"

HOW_TO_RESUME = "run the same command on all hosts to continue"


class ProcessGroup:
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
        self.has_announced = False
        now = time.monotonic()
        self._told: dict[str, str] = {}
        self._answered = self._looked = now
        self._lived = {other: ("", now) for other in range(count) if other != index}
        self._left = threading.Event()
        self._threads = [
            threading.Thread(target=self._carry_messages, name="tells the other processes", daemon=True),
            threading.Thread(target=self._watch, name="watches the other processes", daemon=True),
        ]

    def start(self) -> None:
        """Begins to give signs of life and to look for those of the others."""
        self._looked = self._answered = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._left.set()
        for thread in self._threads:
            thread.join()

    def announce_exit(self, sentence: str, interrupted: bool = False) -> None:
        """Tells the others that this process ends, why, and whether somebody pressed Ctrl-C."""
        try:
            if interrupted:
                self.note_interruption()
            self.client.key_value_set(f"{KEYS}told/ended/{self.index}", sentence, allow_overwrite=True)
        except JaxRuntimeError as error:
            print(f"the other processes could not be told: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        self.has_announced = True

    def note_interruption(self) -> None:
        """Tells the others that somebody pressed Ctrl-C here."""
        self.client.key_value_set(f"{KEYS}told/interrupted/{self.index}", "Ctrl-C", allow_overwrite=True)

    def is_interrupted(self) -> bool:
        """Whether somebody has pressed Ctrl-C on any host."""
        return bool(self.client.key_value_dir_get(f"{KEYS}told/interrupted/"))

    def end(self, sentence: str, status: int = ExitStatus.PEER_LOST) -> NoReturn:
        """Ends this process because another one did, from whichever thread: the main one may wait for it in vain."""
        print(f"error: {sentence}", file=sys.stderr)
        self.exit_now(status)

    def exit_now(self, status: int) -> NoReturn:
        """Ends this process without waiting for the others to end."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self.index == 0 and self.has_announced:
            # Process 0 keeps the store: the others must have read why it ends before it goes.
            time.sleep(2 * self.interval + 1)
        os._exit(status)

    def explain_abort(self) -> str | None:
        """A sentence for an abort by JAX, where another process is the reason; None where none is."""
        if (still := time.monotonic() - self._looked) > self.heartbeat_seconds:
            return self._stood_still(still)
        if self.index and not is_reachable(self.coordinator):
            reason = f"process 0 at {self.coordinator} is gone"
            return f"{reason}, so this one, after step {self.step}, ends too: {HOW_TO_RESUME}"
        return None

    def _carry_messages(self) -> None:
        for beat in itertools.count():
            try:
                sign = f"{beat} {self.step}"
                self.client.key_value_set(f"{KEYS}told/alive/{self.index}", sign, allow_overwrite=True)
                told = self.client.key_value_dir_get(f"{KEYS}told/")
                self._told = {key.partition("told/")[2]: value for key, value in told}
                self._answered = time.monotonic()
            except JaxRuntimeError:
                # Process 0 may be gone, or this host's network; the watch sees how long there is no answer.
                pass
            if self._left.wait(self.interval):
                return

    def _watch(self) -> None:
        while not self._left.wait(self.interval):
            now = time.monotonic()
            still, self._looked = now - self._looked, now
            if still > self.heartbeat_seconds:
                self.end(self._stood_still(still))
            if still > 2 * self.interval:
                # What came meanwhile was not read; the others get as much time again.
                self._answered += still
                self._lived = {index: (sign, when + still) for index, (sign, when) in self._lived.items()}
            self._look(now)

    def _look(self, now: float) -> None:
        """Looks at what the others told last, and how long ago that is."""
        told = self._told
        for index, (last, _) in self._lived.items():
            if ended := told.get(f"ended/{index}"):
                was_interrupted = f"interrupted/{index}" in told
                status = ExitStatus.INTERRUPTED if was_interrupted else ExitStatus.PEER_LOST
                self.end(f"process {index} has ended: {ended}", status)
            sign = told.get(f"alive/{index}", "")
            if sign and sign != last:
                self._lived[index] = (sign, now)
                self.steps[index] = int(sign.split()[1])
        if now - self._answered > self.heartbeat_seconds:
            self._end_without([0])
        silent = [index for index, (_, when) in self._lived.items() if now - when > self.heartbeat_seconds]
        if silent:
            self._end_without(silent)

    def _end_without(self, silent: list[int]) -> NoReturn:
        names = ", ".join(str(index) for index in silent)
        steps = ", ".join(str(self.steps[index]) for index in silent)
        self.end(
            f"process {names} has given no sign of life for {self.heartbeat_seconds:g} s (last step {steps}), so this "
            f"one, after step {self.step}, ends too: {HOW_TO_RESUME}"
        )

    def _stood_still(self, seconds: float) -> str:
        return (
            f"this process, number {self.index}, stood still for {seconds:.0f} s after step {self.step}, as when it is "
            f"stopped or its machine sleeps, and after {self.heartbeat_seconds:g} s the others ended: {HOW_TO_RESUME}"
        )


def is_reachable(address: str) -> bool:
    """Whether somebody listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
            return True
    except OSError:
        return False
