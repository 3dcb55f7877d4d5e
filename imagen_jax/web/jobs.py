"""A queue of orders, one worker that draws them, and what became of the last ones."""

import base64
import queue
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from absl import logging

from imagen_jax.cascades import Cascade
from imagen_jax.data.pixels import encode_png
from imagen_jax.errors import UserError
from imagen_jax.sampling.pictures import encode_picture, to_pixels
from imagen_jax.web.orders import Limits, Order
from imagen_jax.wishes import Wish

WAITING, DRAWING, DONE, FAILED, CANCELLED = "waiting", "drawing", "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)


# A job is itself alone: comparing two would compare their pictures.
@dataclass(eq=False)
class Job:
    """One order and how far it is.

    Attributes:
        order: what is asked for.
        name: hard to guess, for addresses.
        state: one of the five above.
        step: denoising steps done.
        steps: of all stages.
        preview: the picture as it is now, as a data URL.
        problem: why it failed, a sentence.
        picture: the finished PNG.
        seconds: that it took.
        version: grows with every change.
    """

    order: Order
    name: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = WAITING
    step: int = 0
    steps: int = 0
    preview: str = ""
    problem: str = ""
    picture: bytes = b""
    seconds: float = 0.0
    version: int = 0

    def describe(self) -> dict[str, Any]:
        """The job as the page reads it."""
        told = {"id": self.name, "state": self.state, "step": self.step, "steps": self.steps, "problem": self.problem}
        if self.state == DONE:
            told |= {"picture": f"pictures/{self.name}.png", "seconds": round(self.seconds, 2)}
        return {**told, "settings": self.order.told}


class Jobs:
    """The queue and the history; any thread may ask it.

    Args:
        cascade: what draws; its batches hold one picture.
        limits: how many may wait, and how many are kept.
    """

    def __init__(self, cascade: Cascade, limits: Limits):
        self.cascade, self.limits = cascade, limits
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: queue.Queue[Job] = queue.Queue()
        self._lock = threading.Lock()
        self._drawn: Job | None = None
        cascade.on_step = self._count_step
        cascade.on_estimate = self._show_estimate
        threading.Thread(target=self._work, daemon=True).start()

    def add(self, order: Order) -> Job:
        """Puts an order into the queue.

        Raises:
            UserError: too many wait.
        """
        with self._lock:
            if sum(job.state == WAITING for job in self._jobs.values()) >= self.limits.waiting:
                raise UserError(f"{self.limits.waiting} pictures are waiting already: try again when one is done")
            job = Job(order)
            self._jobs[job.name] = job
            finished = [name for name, job in self._jobs.items() if job.state in OVER]
            for name in finished[: max(0, len(finished) - self.limits.kept)]:
                del self._jobs[name]
        self._queue.put(job)
        return job

    def find(self, name: str) -> Job | None:
        """The job of a name, unless it is forgotten."""
        return self._jobs.get(name)

    def cancel(self, job: Job) -> None:
        """Takes a job out of the queue; one that is being drawn is drawn to its end."""
        with self._lock:
            if job.state == WAITING:
                self._change(job, state=CANCELLED)

    def place(self, job: Job) -> int:
        """How many are before a waiting job."""
        with self._lock:
            before = list(self._jobs.values())
        return sum(one.state in (WAITING, DRAWING) for one in before[: before.index(job)]) if job in before else 0

    def history(self) -> list[dict[str, Any]]:
        """All finished pictures, the newest first."""
        with self._lock:
            return [job.describe() for job in reversed(self._jobs.values()) if job.state == DONE]

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            with self._lock:
                if job.state != WAITING:
                    continue
                self._change(job, state=DRAWING)
            began = time.perf_counter()
            try:
                job.picture = self._draw(job)
                self._change(job, state=DONE, seconds=time.perf_counter() - began)
            except UserError as error:
                self._change(job, state=FAILED, problem=str(error))
            except Exception:
                # The page must outlive any picture.
                logging.exception("a picture could not be drawn")
                self._change(job, state=FAILED, problem="this picture could not be drawn: the terminal says why")

    def _draw(self, job: Job) -> bytes:
        order = job.order
        cascade = self.cascade.adjusted(**order.settings)
        job.steps, self._drawn = cascade.count_steps(order.edit), job
        (stages,) = cascade.draw([Wish(order.prompt)], order.seed, order.negative_prompt, order.edit)
        metadata = {"prompt": order.prompt, "seed": str(order.seed), **cascade.describe()}
        return encode_picture(to_pixels(stages[-1])[0], "png", metadata)

    def _count_step(self, number: Any) -> None:
        if self._drawn is not None:
            self._change(self._drawn, step=self._drawn.step + 1)

    def _show_estimate(self, images: Any) -> None:
        if self._drawn is not None:
            png = encode_png(to_pixels(np.asarray(images))[0])
            self._change(self._drawn, preview="data:image/png;base64," + base64.b64encode(png).decode())

    def _change(self, job: Job, **values: Any) -> None:
        for name, value in values.items():
            setattr(job, name, value)
        job.version += 1
