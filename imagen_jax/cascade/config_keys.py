"""Lists the valid keys of a config, so that a misspelt key in a config file is an error, and their preconditions.

The keys of ``config.network``, ``config.optimizer``, ``config.classifier`` and the options of sources and encoders are
checked elsewhere, against the parameters of what they configure. ``ml_collections`` checks keys on the command line
against those of the config file.
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
"""The keys of each section whose keys are the same in every config."""

SECTIONS = ("seed", "network", "optimizer", "classifier", *KEYS)


def check_config(config: ConfigDict) -> None:
    """Checks the keys of a config from a file, before anything is built from it.

    Raises:
        UserError: a key is unknown; names the nearest.
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
    """Returns the name of the flag that sets a config key."""
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
        "--config.data.weights has no effect on a single data set: list several in --config.data.options.folder",
    ),
    *(
        Precondition(
            key(f"data.{name}"),
            lambda given: given.config.data.source != "prepared",
            f"--config.data.{name} has no effect on a prepared data set, which stores its own value: leave it out",
        )
        for name in ("data_dir", "validation_fraction")
    ),
    *(
        Precondition(
            key(f"preview.{name}"),
            lambda given: given.config.training.evaluate_every > 0,
            f"--config.preview.{name} has no effect at --config.training.evaluate_every=0: set both",
        )
        for name in ("samples", "compared", "features")
    ),
    Precondition(
        key("preview.prompts"),
        lambda given: given.config.training.preview_every > 0 and given.config.stage.low_resolution is None,
        "--config.preview.prompts has no effect unless a base writes previews: leave it out",
    ),
)
"""Preconditions of config keys on the command line; their facts are ``flags.FLAGS``."""
