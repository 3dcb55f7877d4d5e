"""As ``python -m imagen_jax.train``, but for several workdirs, one after the other, since starting is what costs.

    several_runs.py --config=… --workdir=A,B,C [--stall=PROCESS,STEP] [--nopreview] …

All have the same config, so that what the first compiles serves the others; only the first samples a preview, if any.
``--stall`` has a process wait for ever for its batch of a step, as for a disk that is gone.
"""

import os
import time

from absl import flags
from gcsfs.extended_gcsfs import BucketType, ExtendedGcsFileSystem

from imagen_jax import train
from imagen_jax.commands import train as command
from imagen_jax.runtime import processes
from imagen_jax.runtime.distributed_flags import join_as_flagged
from imagen_jax.runtime.main import run_main
from imagen_jax.storage.paths import to_path
from imagen_jax.tasks import stage, training_data
from imagen_jax.training.monitoring.watchdog import Watch
from tests.compiled_programs import compiling_once

PREVIEW = flags.DEFINE_bool("preview", True, "Sample a preview.")
STALL = flags.DEFINE_list("stall", [], "Process and step.")


class StallingBatches:
    """Batches of which one never comes."""

    def __init__(self, batches, step):
        self.batches, self.step = batches, step

    def __next__(self):
        if self.get_state()["batches_read"] == self.step - 1:
            time.sleep(3600)
        return next(self.batches)

    def metrics(self, state):
        return self.batches.metrics(state)

    def get_state(self):
        return self.batches.get_state()

    def set_state(self, state):
        self.batches.set_state(state)


async def ordinary(file_system, bucket):
    """What kind a bucket is. gcsfs would query by gRPC, which the imitated buckets do not speak."""
    return BucketType.NON_HIERARCHICAL


def main():
    join_as_flagged()
    if STALL.value and int(STALL.value[0]) == processes._group.index:
        make_batches = training_data.make_batches
        training_data.make_batches = lambda *a, **named: StallingBatches(make_batches(*a, **named), int(STALL.value[1]))
    train.make_training = compiling_once({})
    if "STORAGE_EMULATOR_HOST" in os.environ:
        ExtendedGcsFileSystem._get_bucket_type = ordinary
    for number, workdir in enumerate(command.WORKDIR.value.split(",")):
        if number or not PREVIEW.value:
            stage.make_preview = lambda *_: lambda *_: None
        train.train(command.CONFIG.value, to_path(workdir), Watch(hang_seconds=command.HANG_SECONDS.value))


if __name__ == "__main__":
    run_main(main)
