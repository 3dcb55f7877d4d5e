"""Trains a classifier of noisy images, for classifier guidance.

    imagen-jax train_classifier --config=openmoji_classifier --workdir=runs/classifier
    imagen-jax sample --stages=… --prompt=… --classifier=runs/classifier --classifier_class="Food & Drink"

The same command resumes from the newest checkpoint. At the end it prints the accuracy on the validation split at
several noise levels, and writes it to ``WORKDIR/accuracy.json``. It uses all devices, and several processes as
``imagen-jax train`` does.
"""

from absl import flags
from ml_collections import config_flags

from imagen_jax.runtime import distributed_flags, processes
from imagen_jax.runtime.distributed_flags import join_as_flagged
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import check_flags
from imagen_jax.runtime.preemption import IF_INTERRUPTED
from imagen_jax.train import train_classifier

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A bundled config, openmoji_classifier, or a file, as in configs/mine.py:VARIANT."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: config, metrics, checkpoints.", required=True)
flags.mark_flag_as_required("config")

PRECONDITIONS = distributed_flags.PRECONDITIONS


def main() -> None:
    """Trains ``--config`` in ``--workdir``, and prints the accuracy."""
    check_flags(PRECONDITIONS)
    join_as_flagged()
    accuracy = train_classifier(CONFIG.value, WORKDIR.value)
    if not processes.is_process_zero():
        return
    accuracies = ", ".join(f"{share:.2f} at time {time}" for time, share in accuracy["told_right"].items())
    print(f"accuracy: {accuracies}; chance: {accuracy['chance']:.2f} ({accuracy['images']} images)")


if __name__ == "__main__":
    run_main(main, "config keys are set as in --config.training.steps=500", if_interrupted=IF_INTERRUPTED)
