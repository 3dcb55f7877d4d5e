"""Counts the parameters and FLOPs of a config's network.

    imagen-jax count --config=imagen/base_64:500m [--flops=false] [--batch_size=1]

It lists parameters by part of the network and by kind (``forecast.parameter_count``). It lists the operations of a
forward pass and of a training step without its optimizer, both counted and as XLA reports them (``forecast.flops``).
Nothing is allocated. Counting operations compiles both programs in float32, which takes minutes for 2B parameters.
"""

import jax
from absl import flags
from ml_collections import config_flags

from imagen_jax.cascade.experiment import read_clip_experiment, read_codes_experiment, read_experiment
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.config.reading import is_clip, is_codes
from imagen_jax.forecast.parameter_count import count_parameters, format_counts
from imagen_jax.forecast.stage_programs import format_operations
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import Precondition, check_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A bundled config, as in own_images:base, or a file, as in configs/mine.py:VARIANT."
)
FLOPS = flags.DEFINE_bool("flops", True, "Also count operations. This compiles the programs.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Batch size of the compiled programs.", lower_bound=1)
flags.mark_flag_as_required("config")

PRECONDITIONS = (
    Precondition(
        "batch_size",
        lambda given: given.flops,
        "--batch_size has no effect with --noflops, which compiles nothing: leave out one of them",
    ),
)


def main() -> None:
    """Counts ``--config``."""
    check_flags(PRECONDITIONS)
    if is_clip(CONFIG.value):
        count_clip()
        return
    if is_codes(CONFIG.value):
        count_codes()
        return
    config = read_experiment(CONFIG.value)
    print(*format_counts(count_parameters(abstract_params(build_stage(config)))), sep="\n")
    if FLOPS.value:
        print()
        for row in format_operations(config, BATCH_SIZE.value):
            print(row, flush=True)


def count_clip() -> None:
    """Counts a CLIP: the parameters of each tower, and the operations of a training step."""
    # Tasks import what reads data, whose packages counting a stage does not need.
    from imagen_jax.tasks.clip import build_pair, count_step_operations

    config = read_clip_experiment(CONFIG.value)
    params = jax.eval_shape(build_pair(config).initial_params, jax.random.key(0))
    for name, part in params.items():
        print(f"{name:>16} {sum(leaf.size for leaf in jax.tree.leaves(part)):>14,}")
    if FLOPS.value:
        size = config.training.batch_size
        operations = count_step_operations(config)
        print(f"\n{operations / size / 1e9:.2f} GFLOPs for each pair of a training step with {size:,} pairs")


def count_codes() -> None:
    """Counts a prior of codes: its parameters, and the operations of a training step."""
    from imagen_jax.tasks.codes import count_code_operations, make_codes_task

    config = read_codes_experiment(CONFIG.value)
    params = jax.eval_shape(make_codes_task(config).initial_params, jax.random.key(0))
    for name, part in params.items():
        print(f"{name:>16} {sum(leaf.size for leaf in jax.tree.leaves(part)):>14,}")
    if FLOPS.value:
        per_example = count_code_operations(config) / config.training.batch_size
        print(f"\n{per_example / 1e9:.2f} GFLOPs for each image of a training step")


if __name__ == "__main__":
    run_main(main, "config keys are set as in --config.network.text_channels=512")
