"""A queue of orders, one worker that draws them, and what became of the last ones.

    order -> WAITING -> DRAWING -> DONE with a picture, FAILED with a sentence, or CANCELLED

Memory is bounded: what waits holds files as they were sent, one at a time is decoded, and what is over holds no more
than its settings and its picture. An order that is cancelled, or that nobody follows any more, leaves the queue at
once; one that is being drawn ends after the present step.
"""

import base64
import secrets
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from absl import logging

from imagen_jax.cascade.cascade import MAX_TRAJECTORIES, Cascade
from imagen_jax.cascade.image_files import encode_picture, to_pixels
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.data.pixels import encode_png
from imagen_jax.errors import UserError
from imagen_jax.runtime.memory import release_memory
from imagen_jax.web.orders import Limits, Order

WAITING, DRAWING, DONE, FAILED, CANCELLED = "waiting", "drawing", "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)


class CancelledError(Exception):
    """Ends a drawing between two steps."""


# A job is itself alone: comparing two would compare their pictures.
@dataclass(eq=False)
class Job:
    """One order and how far it is.

    Attributes:
        order: what is asked for; without its pictures once it is over.
        name: hard to guess, for addresses.
        state: one of the five above.
        step: denoising steps done.
        steps: of all stages.
        preview: while it is drawn, the picture as it is now, as a data URL.
        problem: why it failed or was dropped, a sentence.
        picture: the finished PNG.
        seconds: that it took.
        until: when it is dropped, unless somebody asks for it before, by the monotonic clock.
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
    until: float = float("inf")

    def describe(self) -> dict[str, Any]:
        """The job as the page reads it."""
        told = {"id": self.name, "state": self.state, "step": self.step, "steps": self.steps, "problem": self.problem}
        if self.state == DONE:
            told |= {"picture": f"pictures/{self.name}.png", "seconds": round(self.seconds, 2)}
        return {**told, "settings": self.order.told}


class Jobs:
    """The queue and the history; any thread may ask it.

    Args:
        cascade: what draws; its batches hold one picture. It tells these jobs of its steps from now on.
        limits: how many may wait, and how many are kept.
    """

    def __init__(self, cascade: Cascade, limits: Limits):
        self.cascade, self.limits = cascade, limits
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._drawn: Job | None = None
        self._walks: set[str] = set()
        cascade.on_step = self._count_step
        cascade.on_estimate = self._show_estimate
        threading.Thread(target=self._work, name="drawing", daemon=True).start()

    def add(self, order: Order) -> Job:
        """Puts an order into the queue.

        Raises:
            UserError: too many wait, or their pictures are too large together.
        """
        with self._changed:
            self._drop_abandoned()
            waiting = self._of_state(WAITING)
            if len(waiting) >= self.limits.waiting:
                raise UserError(f"{self.limits.waiting} pictures are waiting already: try again when one is done")
            if waiting and sum(job.order.size for job in waiting) + order.size > self.limits.waiting_bytes:
                most = self.limits.waiting_bytes / 2**20
                raise UserError(f"orders with {most:g} MiB of pictures are waiting: try again when one is done")
            job = Job(order, until=time.monotonic() + self.limits.patience_at_first)
            self._jobs[job.name] = job
            self._changed.notify()
        return job

    def describe(self, name: str) -> dict[str, Any] | None:
        """A job as its follower reads it, with its preview and its place in the queue; None where it is forgotten."""
        with self._changed:
            job = self._jobs.get(name)
            if job is None:
                return None
            job.until = time.monotonic() + self.limits.patience
            before = 0
            if job.state == WAITING:
                before = list(self._jobs.values()).index(job)
                before = sum(one.state in (WAITING, DRAWING) for one in list(self._jobs.values())[:before])
            return {**job.describe(), "before": before, "preview": job.preview}

    def picture(self, name: str) -> bytes:
        """The finished picture of a job as PNG; empty where there is none."""
        with self._changed:
            job = self._jobs.get(name)
            if job is None:
                return b""
            job.until = max(job.until, time.monotonic() + self.limits.patience)
            return job.picture

    def cancel(self, name: str) -> None:
        """Takes a job out of the queue, or ends its drawing after the present step."""
        with self._changed:
            job = self._jobs.get(name)
            if job is not None:
                self._end(job, CANCELLED)

    def history(self) -> list[dict[str, Any]]:
        """All finished pictures, the newest first."""
        with self._changed:
            return [job.describe() for job in reversed(self._of_state(DONE))]

    def _work(self) -> None:
        while True:
            job = self._begin_next()
            began = time.perf_counter()
            try:
                picture = self._draw(job)
            except CancelledError:
                continue
            except UserError as error:
                self._end(job, FAILED, problem=str(error))
            except Exception:
                # The page must outlive any picture.
                logging.exception("a picture could not be drawn")
                self._end(job, FAILED, problem="this picture could not be drawn: the terminal says why")
            else:
                self._end(job, DONE, picture=picture, seconds=time.perf_counter() - began)

    def _begin_next(self) -> Job:
        """Waits for an order and begins it."""
        with self._changed:
            while True:
                self._drop_abandoned()
                if waiting := self._of_state(WAITING):
                    waiting[0].state = DRAWING
                    return waiting[0]
                self._changed.wait()

    def _draw(self, job: Job) -> bytes:
        order = job.order
        edit = order.decode_edit()
        self._bound_programs(repr((sorted(order.settings.items()), edit.strength, edit.resample)))
        cascade = self.cascade.adjusted(**order.settings)
        job.steps, self._drawn = cascade.count_steps(edit), job
        try:
            (stages,) = cascade.draw([ImageRequest(order.prompt)], order.seed, order.negative_prompt, edit)
        finally:
            # Estimates come when they like, and one that came later would be taken for the next job's.
            jax.effects_barrier()
            self._drawn = None
        metadata = {"prompt": order.prompt, "seed": str(order.seed), **cascade.describe()}
        return encode_picture(to_pixels(stages[-1])[0], "png", metadata)

    def _bound_programs(self, walk: str) -> None:
        """Forgets all that was compiled, where a drawing takes its steps in a new way and there were many.

        JAX keeps megabytes for each number of steps, besides the cascade's own programs.
        """
        if walk not in self._walks and len(self._walks) >= MAX_TRAJECTORIES:
            self._walks.clear()
            self.cascade.forget_programs()
            jax.clear_caches()
            release_memory()
        self._walks.add(walk)

    def _count_step(self, number: Any) -> None:
        """Counts a step of the job that is drawn.

        Raises:
            CancelledError: it is not to be drawn any more.
        """
        with self._changed:
            self._drop_abandoned()
            job = self._drawn
            if job is not None and job.state != DRAWING:
                raise CancelledError
            if job is not None:
                job.step += 1

    def _show_estimate(self, images: Any) -> None:
        job = self._drawn
        if job is not None and job.state == DRAWING:
            png = encode_png(to_pixels(np.asarray(images))[0])
            preview = "data:image/png;base64," + base64.b64encode(png).decode()
            with self._changed:
                if job.state == DRAWING:
                    job.preview = preview

    def _of_state(self, state: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.state == state]

    def _drop_abandoned(self) -> None:
        """Cancels what nobody follows any more."""
        now = time.monotonic()
        for job in [*self._of_state(WAITING), *self._of_state(DRAWING)]:
            if job.until < now:
                self._end(job, CANCELLED, problem="nobody followed this order any more")

    def _end(self, job: Job, state: str, problem: str = "", picture: bytes = b"", seconds: float = 0.0) -> None:
        """Ends a job, unless it is over, and forgets old ones."""
        with self._changed:
            if job.state in OVER:
                return
            job.state, job.problem, job.picture, job.seconds = state, problem, picture, seconds
            job.order, job.preview = job.order.without_pictures(), ""
            number, size = Counter[bool](), 0
            for name, one in reversed([*self._jobs.items()]):
                if one.state in OVER:
                    has_picture = one.state == DONE
                    number[has_picture] += 1
                    size += len(one.picture)
                    too_large = number[has_picture] > 1 and size > self.limits.kept_bytes
                    if number[has_picture] > self.limits.kept or (has_picture and too_large):
                        del self._jobs[name]
