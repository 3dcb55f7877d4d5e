"""The preconditions of config keys on the command line: a key without an effect is an error."""

from imagen_jax.runtime.preconditions import Precondition


def key(name: str) -> str:
    """Returns the name of the flag that sets a config key."""
    return f"config.{name}"


PRECONDITIONS = (
    Precondition(
        key("text.tokenizer"),
        lambda given: given.config.stage.tokens,
        "--config.text.tokenizer has no effect without --config.stage.tokens=True: set both",
    ),
    Precondition(
        key("training.min_snr_gamma"),
        lambda given: given.config.training.weighting == "min_snr",
        "--config.training.min_snr_gamma has no effect without --config.training.weighting=min_snr: set both",
    ),
    Precondition(
        key("training.sigmoid_bias"),
        lambda given: given.config.training.weighting == "sigmoid",
        "--config.training.sigmoid_bias has no effect without --config.training.weighting=sigmoid: set both",
    ),
    *(
        Precondition(
            key(f"training.{name}"),
            lambda given: given.config.training.noise_levels != "times",
            f"--config.training.{name} has no effect at --config.training.noise_levels=times: set both",
        )
        for name in ("noise_mean", "noise_deviation")
    ),
    Precondition(
        key("training.time_exponent"),
        lambda given: given.config.training.noise_levels == "times",
        "--config.training.time_exponent has no effect unless --config.training.noise_levels=times: leave one out",
    ),
    Precondition(
        key("stage.blur_probability"),
        lambda given: given.config.stage.corruption == "blur",
        "--config.stage.blur_probability has no effect without --config.stage.corruption=blur: set both",
    ),
    *(
        Precondition(
            key(f"stage.{name}"),
            lambda given: given.config.stage.corruption == "noise",
            f"--config.stage.{name} has no effect unless --config.stage.corruption=noise: leave one out",
        )
        for name in ("augmentation_schedule", "enlarge_before_noise")
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
