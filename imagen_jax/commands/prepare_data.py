r"""Prepares a data set for training: checks, filters, splits and shards its images.

    imagen-jax prepare_data --source=coco --option=folder=COCO --out=DATA
    imagen-jax prepare_data --source=tar_shards --option=folder=SHARDS --out=DATA \
        --shorter_side=256 --min_side=256 --condition='aesthetic>=5' --condition='pwatermark<0.5'
    imagen-jax train --config=… --config.data.source=prepared --config.data.options.folder=DATA

After an interruption, the same command resumes. DATA/quarantine.jsonl lists the records that can't be read, and
DATA/repeated.jsonl those that repeat another record.
"""

import os

from absl import flags

from imagen_jax.data.preparation.begun_jobs import check_begun
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.filters import Filters, parse_condition
from imagen_jax.data.preparation.image_files import ImageRules
from imagen_jax.data.preparation.preparation import Preparation, prepare, upload
from imagen_jax.data.preparation.repetitions import DUPLICATES
from imagen_jax.data.preparation.summary import format_manifest
from imagen_jax.data.sources.parted_sources import PARTED_SOURCES, list_parts
from imagen_jax.errors import lookup
from imagen_jax.runtime.main import parse_options, run_main
from imagen_jax.runtime.preconditions import Precondition, check_flags
from imagen_jax.storage.folder_locks import locked
from imagen_jax.storage.local_copies import working_folder
from imagen_jax.storage.paths import in_bucket, to_path

SOURCE = flags.DEFINE_string("source", None, f"Where the images come from: {', '.join(PARTED_SOURCES)}.", required=True)
OPTION = flags.DEFINE_multi_string("option", [], "Option of the source as NAME=VALUE, such as folder=COCO; repeatable.")
OUT = flags.DEFINE_string("out", None, "Folder of the data set.", required=True)
WORKERS = flags.DEFINE_integer(
    "workers", os.cpu_count() or 1, "Number of worker processes; with 0, this process does the work.", lower_bound=0
)
SHORTER_SIDE = flags.DEFINE_integer(
    "shorter_side", None, "Shrink larger images to a shorter side of this many pixels.", lower_bound=1
)
VALIDATION_FRACTION = flags.DEFINE_float(
    "validation_fraction", 0.05, "Share of the validation split, if the source has no splits.", 0.0, 0.999
)
MIN_SIDE = flags.DEFINE_integer("min_side", 1, "Drop images whose shorter side has fewer pixels.", lower_bound=1)
MAX_ASPECT = flags.DEFINE_float("max_aspect", None, "Drop images with a higher ratio of longer to shorter side.")
MIN_WORDS = flags.DEFINE_integer("min_words", 1, "Drop captions with fewer words.", lower_bound=1)
MAX_WORDS = flags.DEFINE_integer("max_words", None, "Drop captions with more words.")
CONDITION = flags.DEFINE_multi_string(
    "condition", [], "Keep only images whose metadata satisfy this, such as aesthetic>=5; repeatable."
)
DUPLICATES_FLAG = flags.DEFINE_enum(
    "duplicates",
    "files",
    DUPLICATES,
    "keys: drop repeated keys; files: also repeated image files; looks: also images that look alike.",
)
MAX_BAD_FRACTION = flags.DEFINE_float(
    "max_bad_fraction", 0.1, "Max share of unreadable records. The run stops above it.", 0.0, 1.0
)

PRECONDITIONS = (
    Precondition(
        "max_words",
        lambda given: given.max_words >= given.min_words,
        "--max_words is below --min_words, so every caption would be dropped: change one of them",
    ),
    Precondition(
        "max_aspect",
        lambda given: given.max_aspect >= 1,
        "--max_aspect is below 1, so every image would be dropped: set it to 1 or more (the longer side divided by "
        "the shorter)",
    ),
)


def main() -> None:
    """Prepares ``--source`` in ``--out``."""
    check_flags(PRECONDITIONS)
    source = lookup(PARTED_SOURCES, SOURCE.value, "data source")
    options = parse_options(source.list_all, OPTION.value)
    preparation = Preparation(
        SOURCE.value,
        options,
        source.attribution,
        list_parts(SOURCE.value, options),
        read_conversion(),
        DUPLICATES_FLAG.value,
        MAX_BAD_FRACTION.value,
    )
    out = to_path(OUT.value)
    if in_bucket(out):
        check_begun(preparation.describe(), out)
        with locked(out, "--out"):
            copy = working_folder(out) / out.name
            manifest = prepare(preparation, copy, WORKERS.value)
            upload(copy, out)
    else:
        manifest = prepare(preparation, out, WORKERS.value)
    print(*format_manifest(manifest, OUT.value), sep="\n")


def read_conversion() -> Conversion:
    """Returns the filters, the image rules and the validation fraction that the flags set."""
    filters = Filters(
        MIN_SIDE.value,
        MAX_ASPECT.value,
        MIN_WORDS.value,
        MAX_WORDS.value,
        tuple(parse_condition(text) for text in CONDITION.value),
    )
    return Conversion(ImageRules(SHORTER_SIDE.value), filters, VALIDATION_FRACTION.value)


if __name__ == "__main__":
    run_main(
        main,
        "an option of the source is given as in --option=folder=COCO",
        if_interrupted="finished parts are kept; run the same command to continue",
    )
