"""Runs a queue of orders in one worker thread and keeps the recent results.

    order -> WAITING -> SAMPLING -> DONE with an image, FAILED with a message, or CANCELLED

Memory is bounded. Waiting orders hold their files in encoded form, and the worker decodes one order at a time. A
finished job keeps its settings and its image, but not the uploaded files.

An order leaves the queue when it is cancelled or has no followers any more. If its image is already being sampled,
sampling stops at the next step callback.
"""

import base64
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from absl import logging

from imagen_jax.cascade.cascade import MAX_TRAJECTORIES, Cascade
from imagen_jax.cascade.image_files import encode_picture, to_pixels
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.data.pixels import encode_png
from imagen_jax.encoders.batched_encoder import BatchedEncoder
from imagen_jax.errors import UserError
from imagen_jax.runtime.memory import release_memory
from imagen_jax.runtime.progress_bars import timed
from imagen_jax.web.manipulation import Manipulator
from imagen_jax.web.orders import Limits, Order

WAITING, SAMPLING, DONE, FAILED, CANCELLED = "waiting", "drawing", "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)


class CancelledError(Exception):
    """Stops sampling between two steps, because the job was cancelled."""


# Jobs compare by identity: comparing their fields would compare whole images.
@dataclass(eq=False)
class Job:
    """One order and its progress.

    Attributes:
        order: the order; without its uploaded files once the job is over.
        name: random identifier for URLs, hard to guess.
        state: ``WAITING``, ``SAMPLING``, ``DONE``, ``FAILED`` or ``CANCELLED``.
        step: number of finished denoising steps.
        steps: total number of denoising steps of all stages.
        preview: current estimate of the image during sampling, as a data URL; empty otherwise.
        compiling: whether a program is compiled at the moment, for seconds to minutes.
        warning: what the image does not follow of the order, one sentence; empty otherwise.
        problem: reason why the job failed or was dropped, one sentence; empty otherwise.
        image: final image as PNG bytes; empty before the job is done.
        seconds: time in seconds that a finished job took.
        until: time on the monotonic clock when an unfinished job is dropped; each request for the job extends it.
    """

    order: Order
    name: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = WAITING
    step: int = 0
    steps: int = 0
    preview: str = ""
    compiling: bool = False
    warning: str = ""
    problem: str = ""
    image: bytes = b""
    seconds: float = 0.0
    until: float = float("inf")

    def describe(self) -> dict[str, Any]:
        """Returns the job as a JSON-serialisable dict for the page."""
        named = ("state", "step", "steps", "compiling", "warning", "problem")
        facts = {"id": self.name, **{name: getattr(self, name) for name in named}}
        if self.state == DONE:
            facts |= {"picture": f"pictures/{self.name}.png", "seconds": round(self.seconds, 2)}
        return {**facts, "settings": self.order.page_settings}


def explain_truncation(cascade: Cascade, prompts: Sequence[str]) -> str:
    """Returns a sentence about the first prompt that the text encoder truncates; empty if it reads all of them."""
    encoder = cascade.encoder
    if not isinstance(encoder, BatchedEncoder):
        return ""
    length = min(one.stage.text_length for one in cascade.trained if one.stage.text_length)
    return next(filter(None, (encoder.explain_truncation(prompt, length) for prompt in prompts)), "")


class _Compilation:
    """Marks a job while one of its programs is compiled: ``timed`` calls it."""

    def __init__(self, job: Job):
        self._job = job

    def hide(self) -> None:
        self._job.compiling = True

    def leave_out(self, seconds: float) -> None:
        self._job.compiling = False


class Jobs:
    """The queue, its worker thread and the history. The public methods are thread-safe.

    Args:
        cascade: a cascade with batch size 1; its ``on_step`` and ``on_estimate`` are set to methods of this object.
        limits: limits of the queue and of the history.
    """

    def __init__(self, cascade: Cascade, limits: Limits):
        self.cascade, self.limits = cascade, limits
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._current: Job | None = None
        self._trajectories: set[str] = set()
        cascade.on_step = self._count_step
        cascade.on_estimate = self._show_estimate
        self._manipulator = Manipulator(cascade)
        threading.Thread(target=self._work, name="drawing", daemon=True).start()

    def add(self, order: Order) -> Job:
        """Adds an order to the queue and returns its job.

        Raises:
            UserError: the queue is full, or the files of all waiting orders would exceed ``limits.waiting_bytes``.
        """
        with self._changed:
            self._drop_abandoned()
            waiting = self._of_state(WAITING)
            if len(waiting) >= self.limits.waiting:
                raise UserError(f"{self.limits.waiting} orders are waiting already: try again when one is done")
            if waiting and sum(job.order.size for job in waiting) + order.size > self.limits.waiting_bytes:
                limit = self.limits.waiting_bytes / 2**20
                raise UserError(f"waiting orders may have {limit:g} MiB of images at most: try again when one is done")
            job = Job(order, until=time.monotonic() + self.limits.patience_at_first)
            self._jobs[job.name] = job
            self._changed.notify()
        return job

    def describe(self, name: str) -> dict[str, Any] | None:
        """Returns a job with its preview and the number of jobs before it; None if the job is not kept.

        The call also extends the job's ``until`` by ``limits.patience``.
        """
        with self._changed:
            job = self._jobs.get(name)
            if job is None:
                return None
            job.until = time.monotonic() + self.limits.patience
            before = 0
            if job.state == WAITING:
                before = list(self._jobs.values()).index(job)
                before = sum(one.state in (WAITING, SAMPLING) for one in list(self._jobs.values())[:before])
            return {**job.describe(), "before": before, "preview": job.preview}

    def image(self, name: str) -> bytes:
        """Returns the final image of a job as PNG bytes; empty if there is none."""
        with self._changed:
            job = self._jobs.get(name)
            if job is None:
                return b""
            job.until = max(job.until, time.monotonic() + self.limits.patience)
            return job.image

    def cancel(self, name: str) -> None:
        """Removes a job from the queue, or stops its sampling at the next step callback."""
        with self._changed:
            job = self._jobs.get(name)
            if job is not None:
                self._end(job, CANCELLED)

    def history(self) -> list[dict[str, Any]]:
        """Returns all jobs with a final image, newest first."""
        with self._changed:
            return [job.describe() for job in reversed(self._of_state(DONE))]

    def _work(self) -> None:
        while True:
            job = self._begin_next()
            began = time.perf_counter()
            try:
                image = self._sample(job)
            except CancelledError:
                continue
            except UserError as error:
                self._end(job, FAILED, problem=str(error))
            except Exception:
                # One failed image must not stop the server.
                logging.exception("an image could not be sampled")
                self._end(job, FAILED, problem="this image could not be sampled: see the terminal for the reason")
            else:
                self._end(job, DONE, image=image, seconds=time.perf_counter() - began)

    def _begin_next(self) -> Job:
        """Waits for an order, marks its job as ``SAMPLING`` and returns the job."""
        with self._changed:
            while True:
                self._drop_abandoned()
                if waiting := self._of_state(WAITING):
                    waiting[0].state = SAMPLING
                    return waiting[0]
                self._changed.wait()

    def _sample(self, job: Job) -> bytes:
        order = job.order
        edit = order.decode_edit()
        self._bound_programs(repr((sorted(order.settings.items()), edit.strength, edit.resample, order.how)))
        job.warning = explain_truncation(self.cascade, [order.prompt, order.negative_prompt or ""])
        try:
            with timed(_Compilation(job)):
                # Before the image is encoded, which may be cancelled too.
                self._current = job
                cascade, request = self._plan(order)
                job.step, job.steps = 0, cascade.count_steps(edit)
                (stages,) = cascade.draw([request], order.seed, order.negative_prompt, edit)
        finally:
            job.compiling = False
            # JAX delivers estimates asynchronously. A late one would be attributed to the next job.
            jax.effects_barrier()
            self._current = None
        metadata = {"prompt": order.prompt, "seed": str(order.seed), **cascade.describe()}
        return encode_picture(to_pixels(stages[-1])[0], "png", metadata)

    def _plan(self, order: Order) -> tuple[Cascade, ImageRequest]:
        """Returns the cascade with the settings of an order, and the order's request."""
        if order.how:
            return self._manipulator.plan(order)
        return self.cascade.adjusted(**order.settings), ImageRequest(order.prompt)

    def _bound_programs(self, trajectory: str) -> None:
        """Clears all compiled programs before a new trajectory if ``MAX_TRAJECTORIES`` of them are cached.

        JAX caches megabytes for each number of steps, in addition to the cascade's own programs.

        Args:
            trajectory: text that identifies the sampling settings, the strength and ``resample``.
        """
        if trajectory not in self._trajectories and len(self._trajectories) >= MAX_TRAJECTORIES:
            self._trajectories.clear()
            self.cascade.forget_programs()
            if self._manipulator.decoding is not self.cascade:
                self._manipulator.decoding.forget_programs()
            jax.clear_caches()
            release_memory()
        self._trajectories.add(trajectory)

    def _count_step(self, number: Any) -> None:
        """Counts a step of the current job.

        Raises:
            CancelledError: the current job was cancelled or dropped.
        """
        with self._changed:
            self._drop_abandoned()
            job = self._current
            if job is not None and job.state != SAMPLING:
                raise CancelledError
            if job is not None:
                job.step += 1

    def _show_estimate(self, images: Any) -> None:
        job = self._current
        if job is not None and job.state == SAMPLING:
            png = encode_png(to_pixels(np.asarray(images))[0])
            preview = "data:image/png;base64," + base64.b64encode(png).decode()
            with self._changed:
                if job.state == SAMPLING:
                    job.preview = preview

    def _of_state(self, state: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.state == state]

    def _drop_abandoned(self) -> None:
        """Cancels the waiting and running jobs whose ``until`` has passed."""
        now = time.monotonic()
        for job in [*self._of_state(WAITING), *self._of_state(SAMPLING)]:
            if job.until < now:
                self._end(job, CANCELLED, problem="this order was dropped, because no page followed it: send it again")

    def _end(self, job: Job, state: str, problem: str = "", image: bytes = b"", seconds: float = 0.0) -> None:
        """Ends a job unless it is over, and deletes the oldest jobs beyond ``limits.kept`` or ``limits.kept_bytes``.

        Jobs with and without a final image count separately. The newest image is always kept.
        """
        with self._changed:
            if job.state in OVER:
                return
            job.state, job.problem, job.image, job.seconds = state, problem, image, seconds
            job.order, job.preview = job.order.without_files(), ""
            number, size = Counter[bool](), 0
            for name, one in reversed([*self._jobs.items()]):
                if one.state in OVER:
                    has_image = one.state == DONE
                    number[has_image] += 1
                    size += len(one.image)
                    too_large = number[has_image] > 1 and size > self.limits.kept_bytes
                    if number[has_image] > self.limits.kept or (has_image and too_large):
                        del self._jobs[name]
