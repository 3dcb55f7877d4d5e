"""Which keys a config may have, so that a misspelt one in a config file is an error, and what some of them need.

``config.network``, ``config.optimizer``, ``config.classifier`` and the options of sources and encoders are checked by
what they name; keys on the command line are checked by ``ml_collections``, for it knows the file's.
"""

from ml_collections import ConfigDict

from imagen_jax.cascade.settings import ELSEWHERE, SETTINGS
from imagen_jax.errors import UserError, check_names, nearest_name
from imagen_jax.runtime.preconditions import Precondition
from imagen_jax.sharding.mesh import MESH_AXES

KEYS: dict[str, tuple[str, ...]] = {
    "data": ("source", "options", "resolution", "data_dir", "validation_fraction", "cache", "crop", "mirror", "weights",
             "max_bad_fraction", "num_workers"),
    "text": ("encoder", "options", "width", "length", "embeddings", "null"),
    "stage": ("resolution", "low_resolution", "crop", "schedule", "augmentation_schedule", "enlarge_before_noise",
              "noise_conditioning", "prediction", "self_conditioned"),
    "training": ("steps", "batch_size", "caption_dropout", "weighting", "min_snr_gamma", "stratified_times",
                 "time_exponent", "gradient_accumulation", "ema_decay", "ema_warm_up", "log_every", "checkpoint_every",
                 "preview_every", "evaluate_every", "keep_checkpoints", "max_consecutive_nonfinite", "on_nonfinite",
                 "max_rewinds", "keep_every", "tensorboard"),
    "sampling": tuple(SETTINGS),
    "preview": ("prompts", "samples", "compared", "features"),
    "mesh": MESH_AXES,
}  # fmt: skip
"""The keys of each section that has the same keys in every config."""

SECTIONS = ("seed", "network", "optimizer", "classifier", *KEYS)


def check_config(config: ConfigDict) -> None:
    """Checks the keys of a config that a file made, before anything is built of it.

    Raises:
        UserError: a key that nothing reads; names the nearest.
    """
    for name in config:
        if name not in SECTIONS:
            raise UserError(f"unknown config key {name}{nearest_name(name, SECTIONS)}")
    for section, keys in KEYS.items():
        if section in config:
            check_names(
                config[section], keys, f"key of config.{section}:", ELSEWHERE if section == "sampling" else None
            )


def key(name: str) -> str:
    """The flag of a config key."""
    return f"config.{name}"


PRECONDITIONS = (
    Precondition(
        key("training.min_snr_gamma"),
        lambda given: given.config.training.weighting == "min_snr",
        "--config.training.min_snr_gamma has no effect without --config.training.weighting=min_snr: set both",
    ),
    Precondition(
        key("training.max_rewinds"),
        lambda given: given.config.training.on_nonfinite == "rewind",
        "--config.training.max_rewinds has no effect without --config.training.on_nonfinite=rewind: set both",
    ),
    Precondition(
        key("data.weights"),
        lambda given: not given.config.data.weights or "," in str(given.config.data.options.get("folder", "")),
        "--config.data.weights has no effect on a single data set: name several in --config.data.options.folder",
    ),
    *(
        Precondition(
            key(f"data.{name}"),
            lambda given: given.config.data.source != "prepared",
            f"--config.data.{name} has no effect on a prepared data set, which says it itself: leave it out",
        )
        for name in ("data_dir", "validation_fraction")
    ),
    *(
        Precondition(
            key(f"preview.{name}"),
            lambda given: given.config.training.evaluate_every > 0,
            f"--config.preview.{name} has no effect at --config.training.evaluate_every=0: set that too",
        )
        for name in ("samples", "compared", "features")
    ),
    Precondition(
        key("preview.prompts"),
        lambda given: given.config.training.preview_every > 0 and given.config.stage.low_resolution is None,
        "--config.preview.prompts has no effect without previews of a base: leave it out",
    ),
)
"""What config keys need that are set on the command line; facts are ``flags.FLAGS``."""
