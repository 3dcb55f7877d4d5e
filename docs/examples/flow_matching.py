"""Flow matching (Lipman et al. 2023; Esser et al. 2024) as four keys of a config.

It is a noise schedule, along which images and noise mix linearly, and a quantity to predict, the velocity of that line.
Every sampler serves it: DDIM's steps on this schedule are Euler's on the flow.
"""

from ml_collections import ConfigDict


def with_flow_matching(config: ConfigDict) -> ConfigDict:
    """Turns the config of a stage into one of flow matching, with times in the middle drawn more often."""
    config.stage.update({"schedule": "flow", "prediction": "flow"})
    config.training.update({"noise_levels": "logit_normal", "time_exponent": 1.0, "stratified_times": True})
    return config
