"""Measures the variational bound of a stage on held-out images: bits per value, term by term.

    imagen-jax measure_bound --stage=runs/base --data=FOLDER [--images=64] [--out=bound.json]

``--data`` is a prepared data set, or the folder of one that a training has made (``data.data_dir``). The images are the
first of its validation split. Each takes ``--steps`` calls of the network, so this is slow: 64 images at 1,000 steps
cost as much as sampling 64 images with 1,000 steps.
"""

import json

from absl import flags

from imagen_jax.cascade.loading import load_encoder_of, load_stage, load_tokenizer_of
from imagen_jax.cascade.network_flag import read_network
from imagen_jax.diffusion.variational_bound import STEPS
from imagen_jax.encoders.embedding_store import ComputedEmbeddings
from imagen_jax.evaluation.protocols.bound import measure_bound
from imagen_jax.evaluation.protocols.references import open_prepared
from imagen_jax.runtime.main import run_main
from imagen_jax.storage.paths import to_path, write_whole

STAGE = flags.DEFINE_string("stage", None, "Workdir or exported folder of the stage.", required=True)
DATA = flags.DEFINE_string("data", None, "Folder of the data set.", required=True)
IMAGES = flags.DEFINE_integer("images", 64, "Max number of images.", lower_bound=1)
BOUND_STEPS = flags.DEFINE_integer("steps", STEPS, "Number of steps of the process.", lower_bound=2)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Number of images at once.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed of the noise.", lower_bound=0, upper_bound=2**32 - 1)
OUT = flags.DEFINE_string("out", None, "File for all terms, as JSON.")

GROUPS = 10
"""Number of groups of steps in the printed table."""


def main() -> None:
    """Measures ``--stage`` on ``--data``, prints the bound and a table of its terms, and writes ``--out``."""
    workdir, data, out = to_path(STAGE.value), to_path(DATA.value), to_path(OUT.value) if OUT.value else None
    trained = load_stage(workdir, network=read_network())
    store = ComputedEmbeddings(load_encoder_of(trained)) if trained.stage.text_length else None
    tokenizer = load_tokenizer_of(trained) if trained.stage.token_length else None
    reference = open_prepared(data, "validation")
    numbers = range(min(IMAGES.value, len(reference.captions)))
    sizes = {"batch_size": BATCH_SIZE.value, "steps": BOUND_STEPS.value, "seed": SEED.value}
    found = measure_bound(trained, store, reference, numbers, **sizes, tokenizer=tokenizer)
    print(f"{found.total:.3f} ± {found.error:.3f} bits per value, of {found.images} images of {reference.name}")
    print(f"  the cleanest step (data)     {found.data:.4f}")
    size = -(-len(found.steps) // GROUPS)
    for first in range(0, len(found.steps), size):
        group = found.steps[first : first + size]
        print(f"  steps {first + 2:4} to {first + 1 + len(group):4}           {sum(group):.4f}")
    print(f"  the noisiest step (prior)    {found.prior:.4f}")
    if out is not None:
        write_whole(out, (json.dumps(found.to_dict()) + "\n").encode())


if __name__ == "__main__":
    run_main(main, "give the stage as --stage=FOLDER and the images as --data=FOLDER")
