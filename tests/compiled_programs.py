"""Programs that tests compile once: JAX's cache of them, and the steps of trainings."""

import json
from contextlib import contextmanager

import jax
from jax.experimental.compilation_cache import compilation_cache

from imagen_jax import train
from imagen_jax.training.compiled_training import Training

IN_THE_PROGRAM = ("network", "stage", "text", "optimizer", "mesh", "seed", "training")
NOT_IN_IT = {
    "steps", "log_every", "checkpoint_every", "preview_every", "evaluate_every", "keep_checkpoints", "keep_every",
    "max_consecutive_nonfinite", "on_nonfinite", "max_rewinds", "tensorboard",
    "init_from", "init_parts", "init_optimizer",
}  # fmt: skip
"""Settings of training that the step knows nothing of."""


@contextmanager
def kept_in(folder):
    """Inside, every compiled program is kept in a folder and found there again; in none where that is None."""
    keep = {"jax_compilation_cache_dir": folder and str(folder), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in keep}
    for name, value in keep.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


class CompiledOnce(Training):
    """A training whose step is compiled when it is first asked for."""

    def compile(self):
        if not hasattr(self, "compiled"):
            self.compiled = super().compile()
        return self.compiled


def compiling_once(trainings):
    """What may stand for ``train.make_training``: trainings of one program share it.

    Args:
        trainings: a dictionary of those that are made already.
    """
    make_training = train.make_training

    def make(task):
        known = {name: value for name, value in task.saved.items() if name in IN_THE_PROGRAM}
        known["training"] = {name: value for name, value in known["training"].items() if name not in NOT_IN_IT}
        program = json.dumps(known, sort_keys=True)
        if program not in trainings:
            trainings[program] = CompiledOnce(*make_training(task))
        return trainings[program]

    return make
