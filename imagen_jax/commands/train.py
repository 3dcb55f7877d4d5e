"""Trains one stage of a cascade.

    imagen-jax train --config=quickstart:base --workdir=runs/base [--config.training.steps=500]
    imagen-jax train --config=own_images:base --workdir=runs/own/base --config.data.options.folder=FOLDER

``--config`` takes a bundled config or a file of your own (``imagen-jax copy_configs`` copies the bundled ones). On
several hosts, run this command on each, with ``--distributed`` or with ``--coordinator`` and its related flags. Run
again, it continues from the newest checkpoint; a finished run returns at once.
"""

from imagen_jax.runtime.memory import restart_with_large_pages

if __name__ == "__main__":
    # Before the other imports: JAX takes seconds to load, and would be loaded twice.
    restart_with_large_pages()

from absl import flags
from ml_collections import config_flags

from imagen_jax.cascade.config_keys import PRECONDITIONS as CONFIG_PRECONDITIONS
from imagen_jax.evaluation.reports.run_page import PAGE_NAME
from imagen_jax.runtime import distributed_flags, processes
from imagen_jax.runtime.distributed_flags import join_as_flagged
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.own_classes import import_class
from imagen_jax.runtime.preconditions import Precondition, check_flags
from imagen_jax.runtime.preemption import IF_INTERRUPTED
from imagen_jax.train import train
from imagen_jax.training.monitoring.watchdog import Watch, parse_steps

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A bundled config, as in own_images:base, or a file, as in configs/mine.py:VARIANT."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: config, metrics, checkpoints, previews.", required=True
)
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "Trace these steps, first and last as in 20,24, into WORKDIR/profile."
)
HANG_SECONDS = flags.DEFINE_float(
    "hang_seconds", 600.0, "Report when no step has ended for so long, and each host's last; 0: never.", lower_bound=0.0
)
END_WHEN_HUNG = flags.DEFINE_bool("end_when_hung", False, "After such a report, end the process.")
flags.mark_flag_as_required("config")

PRECONDITIONS = (
    *distributed_flags.PRECONDITIONS,
    *CONFIG_PRECONDITIONS,
    Precondition(
        "end_when_hung",
        lambda given: given.hang_seconds > 0,
        "--end_when_hung has no effect at --hang_seconds=0, which never reports: leave one of them out",
    ),
)


def main() -> None:
    """Trains ``--config`` in ``--workdir``."""
    check_flags(PRECONDITIONS)
    watch = Watch(parse_steps(PROFILE_STEPS.value), HANG_SECONDS.value, END_WHEN_HUNG.value)
    join_as_flagged()
    name = CONFIG.value.get("network", {}).get("name") or ""
    network = import_class(name) if ":" in name else None
    result = train(CONFIG.value, WORKDIR.value, watch, network=network)
    page = result.workdir / PAGE_NAME
    if processes.is_process_zero() and page.exists():
        print(f"{result.workdir} has {result.step} steps; its page is {page}")


if __name__ == "__main__":
    run_main(main, "config keys are set as in --config.training.steps=500", if_interrupted=IF_INTERRUPTED)
