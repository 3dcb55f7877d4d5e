"""Compiles a job for a TPU pod without the pod: does it fit, and what limits its speed?

    python -m imagen_jax compile_check --config=imagen/base_64:2b --topology=v4:4x8x8 --batch=2048
    python -m imagen_jax compile_check --config=… --topology=v5e:4x4 --batch=64 --sample
    python -m imagen_jax compile_check --config=clip/published:b16 --topology=v4:4x8x8
    python -m imagen_jax compile_check --encoder=xxl --topology=v5e:2x4 --batch=512

It compiles the real training step, sampler or T5 encoder with the real compiler, that of libtpu, which needs no TPU.
Nothing is run. The compiler reports memory, operations and collectives. The times are lower bounds from the peak rates
of the chips (``forecast/roofline.py``).
"""

import json
import os

import jax
from absl import flags
from ml_collections import config_flags

from imagen_jax.storage.paths import create_folder, to_path, write_whole

# Set before JAX initialises its devices: only the TPU compiler is needed, even on a machine with a TPU.
os.environ["JAX_PLATFORMS"] = "cpu"

from imagen_jax.cascade.experiment import read_clip_experiment, read_codes_experiment, read_experiment
from imagen_jax.config.reading import is_clip, is_codes
from imagen_jax.errors import UserError
from imagen_jax.forecast.jobs import Job, embedding_job, sampling_job, task_job, training_job
from imagen_jax.forecast.report import compile_job, format_report
from imagen_jax.forecast.topologies import EXAMPLE, Pod, describe_pod
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import Precondition, check_flags
from imagen_jax.runtime.progress_bars import announcing, compiling

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A bundled config, as in own_images:base, or a file, as in configs/mine.py:VARIANT."
)
TOPOLOGY = flags.DEFINE_string("topology", None, "Generation and sides of a slice, as in v4:4x8x8.", required=True)
SLICES = flags.DEFINE_integer("slices", 1, "Number of slices, joined by the data-center network.", lower_bound=1)
BATCH = flags.DEFINE_integer(
    "batch", None, "Batch size, in images or captions; by default that of the config.", lower_bound=1
)
SAMPLE = flags.DEFINE_bool("sample", False, "Compile the sampler instead of the training step.")
ENCODER = flags.DEFINE_string("encoder", None, "Compile the T5 encoder of this size instead, such as xxl.")
TOKENS = flags.DEFINE_integer("tokens", 128, "With --encoder: number of tokens per caption.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "Where to write the report, as JSON.")
PROGRAM = flags.DEFINE_string("program", None, "Where to write the compiled program, as text.")

PRECONDITIONS = (
    Precondition(
        "tokens",
        lambda given: given.encoder is not None,
        "--tokens has no effect without --encoder: with --config, set --config.text.length",
    ),
    Precondition(
        "sample",
        lambda given: given.encoder is None,
        "--sample has no effect with --encoder: give --config instead of --encoder to compile a sampler",
    ),
)


def main() -> None:
    """Compiles ``--config`` for ``--topology``."""
    check_flags(PRECONDITIONS)
    check_choice()
    # Programs compiled for chips that are not attached can't be loaded from the compilation cache.
    jax.config.update("jax_enable_compilation_cache", False)
    pod = describe_pod(TOPOLOGY.value, SLICES.value)
    job = make_job(pod)
    with announcing(), compiling(f"the {job.name} for {pod.name} ({len(pod.devices)} chips)"):
        report, program = compile_job(job, pod)
    if CONFIG.value is not None:
        report["config"] = CONFIG.value.to_dict()
    print(*format_report(report), sep="\n")
    for path, text in ((OUT.value, json.dumps(report, indent=2) + "\n"), (PROGRAM.value, program)):
        if path is not None:
            create_folder(to_path(path).parent)
            write_whole(to_path(path), text.encode())


def check_choice() -> None:
    """Checks that exactly one of ``--config`` and ``--encoder`` is given, and checks the config's keys.

    Raises:
        UserError: neither or both are given, or a config key is unknown.
    """
    if (CONFIG.value is None) == (ENCODER.value is None):
        raise UserError(f"give either --config or --encoder, as in --config=quickstart:base {EXAMPLE}")
    if CONFIG.value is not None and is_clip(CONFIG.value):
        if SAMPLE.value:
            raise UserError("a CLIP samples no images: leave out --sample")
        read_clip_experiment(CONFIG.value)
    elif CONFIG.value is not None and is_codes(CONFIG.value):
        if SAMPLE.value:
            raise UserError("--sample compiles the sampling of images, and a prior of codes makes none: leave it out")
        read_codes_experiment(CONFIG.value)
    elif CONFIG.value is not None:
        read_experiment(CONFIG.value)


def make_job(pod: Pod) -> Job:
    """Makes the job that the flags describe.

    Raises:
        UserError: the config is wrong, or there is no such encoder.
    """
    if ENCODER.value is not None:
        return embedding_job(ENCODER.value, pod.devices, BATCH.value or 512, TOKENS.value)
    config = CONFIG.value
    if SLICES.value > 1:
        config.mesh.slice = SLICES.value
    if SAMPLE.value:
        return sampling_job(read_experiment(config), pod.devices, BATCH.value or len(pod.devices))
    if BATCH.value is not None:
        config.training.batch_size = BATCH.value
    # Tasks import what reads data, whose packages a stage's forecast does not need.
    if is_clip(config):
        from imagen_jax.tasks.clip import clip_task, count_step_operations

        clip = read_clip_experiment(config)
        return task_job(clip_task(clip), pod.devices, count_step_operations(clip))
    if is_codes(config):
        from imagen_jax.tasks.codes import count_code_operations, make_codes_task

        codes = read_codes_experiment(config)
        return task_job(make_codes_task(codes), pod.devices, count_code_operations(codes))
    return training_job(read_experiment(config), pod.devices)


if __name__ == "__main__":
    run_main(main, "config keys are set as in --config.mesh.fsdp=16")
