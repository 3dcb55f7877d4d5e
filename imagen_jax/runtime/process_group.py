"""Heartbeats between the processes of a run. A process exits when another one is lost.

    every few seconds: write a heartbeat -> read the others' heartbeats and messages -> exit if a process is lost

Two threads do this, because a request to process 0's store never returns if that process is suspended:

| thread | task |
|---|---|
| messenger | writes to the store and reads from it |
| watch | makes no requests; checks the age of the last reply and of the last heartbeats |

A process may be suspended itself, by SIGSTOP or because its machine sleeps. It detects this when it resumes, and exits,
because the others have exited by then.
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
    """The processes of a run, as this process sees them.

    Args:
        client: client of JAX's coordination service.
        index: index of this process, from 0.
        count: number of processes.
        coordinator: address of the coordination service, ``host:port``.
        heartbeat_seconds: max seconds without a heartbeat of a process.
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
        self._messages: dict[str, str] = {}
        self._answered = self._looked = now
        self._lived = {other: ("", now) for other in range(count) if other != index}
        self._left = threading.Event()
        self._threads = [
            threading.Thread(target=self._carry_messages, name="sends messages to the other processes", daemon=True),
            threading.Thread(target=self._watch, name="watches the other processes", daemon=True),
        ]

    def start(self) -> None:
        """Starts the threads that send heartbeats and check those of the other processes."""
        self._looked = self._answered = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops both threads."""
        self._left.set()
        for thread in self._threads:
            thread.join()

    def announce_exit(self, sentence: str, interrupted: bool = False) -> None:
        """Announces to the other processes that this one exits, with the reason and whether it is Ctrl-C."""
        try:
            if interrupted:
                self.note_interruption()
            self.client.key_value_set(f"{KEYS}told/ended/{self.index}", sentence, allow_overwrite=True)
        except JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            print(f"the other processes could not be notified: {reason}", file=sys.stderr, flush=True)
        self.has_announced = True

    def note_interruption(self) -> None:
        """Records in the store that this process received Ctrl-C."""
        self.client.key_value_set(f"{KEYS}told/interrupted/{self.index}", "Ctrl-C", allow_overwrite=True)

    def is_interrupted(self) -> bool:
        """Returns whether any process has received Ctrl-C."""
        return bool(self.client.key_value_dir_get(f"{KEYS}told/interrupted/"))

    def end(self, sentence: str, status: int = ExitStatus.PEER_LOST) -> NoReturn:
        """Prints an error and exits after the loss of another process.

        Any thread may call it, because the main thread may hang in a collective.
        """
        print(f"error: {sentence}", file=sys.stderr)
        self.exit_now(status)

    def exit_now(self, status: int) -> NoReturn:
        """Exits this process at once, without waiting for the others to exit."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self.index == 0 and self.has_announced:
            # Process 0 runs the store. The others must read its message before the store is gone.
            time.sleep(2 * self.interval + 1)
        os._exit(status)

    def explain_abort(self) -> str | None:
        """Returns a message if JAX aborts this process because of a suspension or a lost process 0, otherwise None."""
        if (pause := time.monotonic() - self._looked) > self.heartbeat_seconds:
            return self._explain_suspension(pause)
        if self.index and not is_reachable(self.coordinator):
            reason = f"process 0 at {self.coordinator} is gone"
            return f"{reason}, so this one, after step {self.step}, exits too: {HOW_TO_RESUME}"
        return None

    def _carry_messages(self) -> None:
        for beat in itertools.count():
            try:
                sign = f"{beat} {self.step}"
                self.client.key_value_set(f"{KEYS}told/alive/{self.index}", sign, allow_overwrite=True)
                messages = self.client.key_value_dir_get(f"{KEYS}told/")
                self._messages = {key.partition("told/")[2]: value for key, value in messages}
                self._answered = time.monotonic()
            except JaxRuntimeError:
                # Process 0 or this host's network may be down. The watch thread measures the time without a reply.
                pass
            if self._left.wait(self.interval):
                return

    def _watch(self) -> None:
        while not self._left.wait(self.interval):
            now = time.monotonic()
            pause, self._looked = now - self._looked, now
            if pause > self.heartbeat_seconds:
                self.end(self._explain_suspension(pause))
            if pause > 2 * self.interval:
                # This process read no heartbeats meanwhile, so the deadlines of the others move by the same time.
                self._answered += pause
                self._lived = {index: (sign, when + pause) for index, (sign, when) in self._lived.items()}
            self._look(now)

    def _look(self, now: float) -> None:
        """Checks the last messages and heartbeats of the other processes, and exits if one is lost."""
        messages = self._messages
        for index, (last, _) in self._lived.items():
            if ended := messages.get(f"ended/{index}"):
                was_interrupted = f"interrupted/{index}" in messages
                status = ExitStatus.INTERRUPTED if was_interrupted else ExitStatus.PEER_LOST
                self.end(f"process {index} has ended: {ended}", status)
            sign = messages.get(f"alive/{index}", "")
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
            f"process {names} has sent no heartbeat for {self.heartbeat_seconds:g} s (last step {steps}), so this "
            f"one, after step {self.step}, exits too: {HOW_TO_RESUME}"
        )

    def _explain_suspension(self, seconds: float) -> str:
        return (
            f"this process, number {self.index}, was suspended for {seconds:.0f} s after step {self.step}, as when "
            f"it is stopped or its machine sleeps, and after {self.heartbeat_seconds:g} s the others exited: "
            f"{HOW_TO_RESUME}"
        )


def is_reachable(address: str) -> bool:
    """Returns whether a server accepts connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
            return True
    except OSError:
        return False
