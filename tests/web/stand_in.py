"""A cascade that samples nothing and takes the time that a test gives it."""

import threading

import numpy as np
from ml_collections import ConfigDict

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.edits import NO_EDIT, resize
from imagen_jax.cascade.sampling_settings import SamplingSettings
from imagen_jax.sampling.sampler import STEP_RULES
from tests.stages_of_functions import stage_of

SIDE = 16
SETTINGS = {"steps": 2, "guidance": 2.0, "sampler": "ddim", "spacing": "uniform", "thresholding": "dynamic",
            "augmentation_level": 0.0}  # fmt: skip


class Trained:
    """What the page reads of a stage's config."""

    name = "stand-in"
    config = ConfigDict({"sampling": SETTINGS})


class StandIn(Cascade):
    """One stage to ``side`` pixels, which shows the image to edit, or noise.

    Args:
        steps: number of steps.
        side: height and width of its images.

    Attributes:
        may_step: while this event is cleared, the next step waits.
        begun: released once for each image that is begun.
        edits: number of images that were edits.
        forgotten: number of times that its programs were cleared.
    """

    def __init__(self, steps=2, side=SIDE):
        settings = SamplingSettings(2, STEP_RULES["ddim"](0.0, 0.0), 1.0, lambda estimate: estimate)
        self.stages = [stage_of(None, (side, side, 3), settings)]
        self.trained, self.steps, self.side = [Trained()], steps, side
        self.encoder = self.on_step = self.on_estimate = None
        self.may_step, self.begun = threading.Event(), threading.Semaphore(0)
        self.may_step.set()
        self.edits = self.forgotten = 0

    def adjusted(self, **overrides):
        return self

    def forget_programs(self):
        self.forgotten += 1

    def count_steps(self, edit=NO_EDIT):
        return self.steps

    def describe(self):
        return {}

    def draw(self, requests, seed=0, negative_prompt=None, edit=NO_EDIT):
        images = np.random.default_rng(seed).uniform(-1, 1, (1, self.side, self.side, 3)).astype(np.float32)
        if edit.image is not None:
            self.edits += 1
            edit.images(self.side, 1)
            images = resize(edit.square, self.side)[None]
        self.begun.release()
        for step in range(self.steps):
            self.may_step.wait()
            self.show(images)
            self.on_step(step)
        yield [images]

    def show(self, images):
        """Shows the image so far."""
        self.on_estimate(images)
