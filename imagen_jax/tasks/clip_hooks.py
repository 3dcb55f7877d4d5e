"""Measures a CLIP during its training on held-out pairs, ends the training when it no longer improves, and exports it.

averaged parameters -> embeddings of held-out images and captions -> recall both ways, zero-shot accuracy
-> WORKDIR/retrieval.jsonl; WORKDIR/clip (the weights that other commands read)
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from imagen_jax.cascade.experiment import ClipExperiment
from imagen_jax.clip.pair import Pair, Params
from imagen_jax.config.clip_sections import ClipTrainingConfig
from imagen_jax.data.class_words import DESCRIPTIONS
from imagen_jax.data.classes import CLASSES
from imagen_jax.errors import UserError, lookup
from imagen_jax.evaluation.prompt_templates import TEMPLATES, ClassPrompts, make_prompts
from imagen_jax.evaluation.protocols.clip_evaluation import ClipEvaluation, make_clip_evaluation
from imagen_jax.runtime import processes
from imagen_jax.runtime.progress_bars import compile_first
from imagen_jax.sharding.placement import batch_placement, num_batch_shards, replicated, rows_of_batches
from imagen_jax.storage.paths import Path
from imagen_jax.tasks.clip_data import ClipData, HeldOut
from imagen_jax.tasks.clip_export import export_pair
from imagen_jax.tasks.clip_loss import prepare_images
from imagen_jax.training.loop import Hook, StepInfo
from imagen_jax.training.monitoring.append_file import warn_on_write_error
from imagen_jax.training.monitoring.metrics import MetricsWriter, read_metrics

FILE_NAME = "retrieval.jsonl"
SCORE = "retrieval"
"""The number by which a training is compared with itself: the mean of all recalls, at 1, 5 and 10, both ways."""

BATCH = 64


class ClipHook:
    """The slow hook of a CLIP's training.

    Args:
        config: the config.
        pair: the towers.
        data: the data.
        workdir: folder of the run.

    Raises:
        UserError: there are no held-out pairs, or the classes are unknown.
    """

    def __init__(self, config: ClipExperiment, pair: Pair, data: ClipData, workdir: Path) -> None:
        self.config, self.pair, self.workdir = config, pair, workdir
        self._scores: dict[int, float] | None = None
        self._programs: dict[str, Any] = {}
        self._held_out: HeldOut | None = None
        self._evaluation: ClipEvaluation | None = None
        if config.training.evaluate_every:
            self._held_out = data.held_out()
            self._evaluation = make_evaluation(config, self._held_out)
            self._texts = data.captions_of(self._evaluation.texts)
        elif config.training.patience:
            raise UserError("config.training.patience has no effect at config.training.evaluate_every=0: set both")

    def hooks(self) -> list[Hook]:
        """Returns the hook: after each measurement, or where none is wanted with each checkpoint."""
        training = self.config.training
        return [Hook(SCORE, training.evaluate_every or training.checkpoint_every, self, when_leaving=False)]

    def scores_until(self, done: int) -> dict[int, float]:
        """Returns the scores by step. At the first call they are read from the file, up to the step ``done``."""
        if self._scores is None:
            lines = read_metrics(self.workdir, FILE_NAME) if processes.is_process_zero() else []
            scores = [(line["step"], line[SCORE]) for line in lines if line["step"] <= done]
            self._scores = {int(step): float(score) for step, score in processes.broadcast(scores)}
        return self._scores

    def is_finished(self, done: int) -> bool:
        """Returns whether the last ``training.patience`` measurements were no better than the best before them."""
        patience = self.config.training.patience
        scores = self.scores_until(done) if patience else {}
        return bool(scores) and sum(step > best_step(scores) for step in scores) >= patience

    def __call__(self, number: int, info: StepInfo) -> None:
        """Measures the averaged parameters, and exports them if they are to be kept."""
        best = True
        if self._held_out is not None:
            line = self.measure(info.state.ema_params, info)
            scores = self.scores_until(number - 1)
            scores[number] = line[SCORE]
            best = not self.config.training.patience or best_step(scores) == number
            if processes.is_process_zero():
                with warn_on_write_error(f"the measurement of step {number}"):
                    with MetricsWriter(self.workdir, number - 1, name=FILE_NAME) as writer:
                        writer.write(number, line)
        if best:
            params = self.gather(info)
            if processes.is_process_zero():
                with warn_on_write_error(f"the weights of step {number}"):
                    export_pair(self.config, self.pair, params, self.workdir)

    def gather(self, info: StepInfo) -> Params:
        """Returns the averaged parameters on the host, from the shards of all processes."""
        placement: Any = info.state.step.sharding
        params = info.state.ema_params
        if processes.is_multi_process():
            if "weights" not in self._programs:
                self._programs["weights"] = jax.jit(lambda params: params, out_shardings=replicated(placement.mesh))
            params = self._programs["weights"](params)
        return jax.device_get(params) if processes.is_process_zero() else params

    def measure(self, params: Params, info: StepInfo) -> dict[str, float]:
        """Returns the metrics of the held-out pairs: recall both ways, and with classes the zero-shot accuracy."""
        assert self._held_out is not None and self._evaluation is not None
        placement: Any = info.state.step.sharding
        images = self.embed("images", params, self._held_out.images, placement.mesh)
        metrics = self._evaluation(images, self.embed("captions", params, self._texts, placement.mesh))
        recalls = [value for name, value in metrics.items() if "_recall_at_" in name]
        return {SCORE: float(np.mean(recalls)), **metrics}

    def embed(self, what: str, params: Params, inputs: np.ndarray, mesh: Any) -> np.ndarray:
        """Returns the embeddings of what a tower takes, in batches of one size, sharded over all devices.

        Args:
            what: ``images`` or ``captions``.
            params: parameters of the pair, on the devices.
            inputs: what the tower takes, on the host; the same in every process.
            mesh: the mesh of devices.
        """
        shards = num_batch_shards(mesh)
        size = -(-BATCH // shards) * shards
        if what not in self._programs:
            sharded = batch_placement(mesh, size)
            act = self._embed_images if what == "images" else self.pair.embed_captions

            def embed_shards(params: Params, rows: Any) -> Any:
                return act(params, jax.lax.with_sharding_constraint(rows, sharded))

            # Each process has all rows on its host, which JAX takes only as replicated.
            whole = replicated(mesh)
            program = jax.jit(embed_shards, in_shardings=(None, whole), out_shardings=whole)
            self._programs[what] = compile_first(program, f"the embedding of held-out {what}")
        parts = []
        for rows in rows_of_batches(len(inputs), size):
            parts.append(np.asarray(self._programs[what](params, inputs[rows]), np.float32))
        return np.concatenate(parts)[: len(inputs)]

    def _embed_images(self, params: Params, images: Any) -> jax.Array:
        return self.pair.embed_images(params, prepare_images(self.pair, self.config.clip, images))


def best_step(scores: Mapping[int, float]) -> int:
    """Returns the step of the best score; of equal ones, the first."""
    return max(sorted(scores), key=lambda step: scores[step])


def class_prompts(config: ClipExperiment) -> ClassPrompts | None:
    """Returns the prompts of the zero-shot measurement; None without classes.

    Raises:
        UserError: the classes or the templates are unknown.
    """
    if not config.clip.classes:
        return None
    described = lookup(dict(DESCRIPTIONS), config.clip.classes, "clip.classes")
    templates = lookup(TEMPLATES, config.clip.templates, "clip.templates")
    return make_prompts({name: one.words for name, one in described.items()}, templates)


def make_evaluation(config: ClipExperiment, held_out: HeldOut) -> ClipEvaluation:
    """Makes the measurement of the held-out pairs.

    Raises:
        UserError: the classes are unknown, or no image has one.
    """
    prompts = class_prompts(config)
    if prompts is None:
        return make_clip_evaluation(held_out.captions)
    classes = CLASSES[config.clip.classes]
    labels = np.array([classes.label_of(key) for key in held_out.keys])
    return make_clip_evaluation(held_out.captions, prompts, labels)


def find_missing_measurement(training: ClipTrainingConfig, workdir: Path, done: int) -> tuple[str, ...]:
    """Returns the hook's name if a measurement was due at step ``done`` whose result is missing."""
    due = bool(done and training.evaluate_every and (done % training.evaluate_every == 0 or done == training.steps))
    missing = due and not any(line["step"] == done for line in read_metrics(workdir, FILE_NAME))
    return tuple(processes.broadcast([SCORE] if missing else []))
