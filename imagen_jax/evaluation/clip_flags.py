"""A CLIP, and the captioned images that it embeds."""

from absl import flags

from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.sources.sources import SOURCES
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import read_manifest
from imagen_jax.encoders.pretrained_clip import SIZES, Clip, load_clip
from imagen_jax.errors import UserError, nearest_name
from imagen_jax.pretrained import find_part
from imagen_jax.runtime.main import parse_options
from imagen_jax.runtime.preconditions import Precondition
from imagen_jax.storage.paths import Path, to_path

CLIP = flags.DEFINE_string(
    "clip",
    None,
    "Folder or file of a CLIP's weights, a bundled CLIP (emoji_unclip/clip), or a model of OpenAI, such as ViT-B/32.",
    required=True,
)
CLIP_VOCABULARY = flags.DEFINE_string("clip_vocabulary", "", "File bpe_simple_vocab_16e6.txt.gz, for OpenAI's weights.")

DATA = flags.DEFINE_string("data", "", f"Folder of a prepared data set, or a source: {', '.join(SOURCES)}.")
SPLIT = flags.DEFINE_enum("split", "validation", SPLITS, "Split to measure on.")
OPTION = flags.DEFINE_multi_string(
    "option", [], "Option of the source as NAME=VALUE, such as folder=IMAGES; repeatable."
)
RESOLUTION = flags.DEFINE_integer("resolution", 224, "Height and width of a source's images.", lower_bound=1)
VALIDATION_FRACTION = flags.DEFINE_float(
    "validation_fraction",
    0.05,
    "Share of a source's validation split. Use at most that of the CLIP's training, or the split is not held out.",
    0.0,
    0.999,
)
DATA_DIR = flags.DEFINE_string("data_dir", "runs/data", "Folder for the rendered data set of a source.")


def with_source(flag: str) -> Precondition:
    """Returns the precondition of a flag that has no effect with a prepared data set."""
    return Precondition(
        flag,
        lambda given: given.data in SOURCES,
        f"--{flag} has no effect with the folder of a prepared data set in --data: leave it out, or name a source",
    )


PRECONDITIONS = tuple(map(with_source, ("option", "resolution", "validation_fraction", "data_dir")))


def check_paths() -> None:
    """Checks every flag of this module that holds a path.

    Raises:
        UserError: a path is neither on this machine nor in a supported bucket.
    """
    for flag in (CLIP, CLIP_VOCABULARY, DATA, DATA_DIR):
        to_path(flag.value)


def check_clip() -> None:
    """Checks ``--clip`` without loading it.

    Raises:
        UserError: it names neither a model of OpenAI, nor an existing file or folder, nor a bundled CLIP.
    """
    if CLIP.value not in SIZES and not find_part(to_path(CLIP.value).expanduser()).exists():
        raise UserError(
            f"--clip={CLIP.value} is neither a file or folder of weights, nor a model of OpenAI, nor the CLIP of a "
            f"bundled cascade, such as emoji_unclip/clip{nearest_name(CLIP.value, SIZES)}"
        )


def load_flagged_clip() -> Clip:
    """Loads ``--clip``.

    Raises:
        UserError: its weights are missing, damaged or of an unsupported kind.
    """
    if CLIP.value in SIZES:
        return load_clip("", CLIP.value, CLIP_VOCABULARY.value)
    return load_clip(str(to_path(CLIP.value).expanduser()), "", CLIP_VOCABULARY.value)


def find_data_set() -> Path:
    """Returns the folder of the data set in ``--data``; renders that of a source first, if necessary.

    Raises:
        UserError: the flag is missing, or names neither a source nor the folder of a prepared data set.
    """
    data = DATA.value
    if not data:
        raise UserError("--data is missing: give the folder of a prepared data set, or a source such as openmoji")
    if data in SOURCES:
        options = parse_options(SOURCES[data].list_all, OPTION.value)
        return prepare_data(data, RESOLUTION.value, DATA_DIR.value, VALIDATION_FRACTION.value, **options)
    folder = to_path(data).expanduser()
    if not folder.is_dir():
        raise UserError(f"--data={data} is neither a folder nor a source{nearest_name(data, SOURCES)}")
    read_manifest(folder)
    return folder
