"""The sampling settings of a stage, made from ``config.sampling``.

config.sampling, with overrides -> names and ranges checked (``settings``) -> SamplingSettings: rule, guidance, spacing
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from imagen_jax.cascade.settings import ANALYTIC, check_settings
from imagen_jax.errors import UserError
from imagen_jax.sampling.guidance import ClassifierGuidance, Interval
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.sampling.spacings import Spacing, choose_spacing, space_uniformly
from imagen_jax.sampling.step_rules import ERROR_LOG_SNRS, StepRule, analytic
from imagen_jax.sampling.thresholding import THRESHOLDS, Threshold

NO_LIMIT = 1e9
"""The default of ``max_threshold``."""


class SamplingSettings(NamedTuple):
    """The sampling settings of one stage.

    Attributes:
        steps: number of denoising steps, at least 1.
        rule: the step rule, see ``step_rules`` and ``solvers``.
        guidance_weight: w in Imagen's convention, 1 for no guidance; see ``guidance``.
        threshold: thresholding of the estimate, see ``thresholding``.
        augmentation_level: noise level of the low-resolution condition, in [0, 1]; a base ignores it.
        spacing: the function that spaces the log-SNRs of the steps.
        interval: log-SNRs between which guidance is applied; None for all.
        batched_guidance: whether guidance calls the network once with twice the batch, instead of twice.
        classifier: additional classifier guidance; None for none.
        candidates: number of vectors that a prior draws for each request, of which the best stays.
    """

    steps: int
    rule: StepRule
    guidance_weight: float
    threshold: Threshold
    augmentation_level: float = 0.0
    spacing: Spacing = space_uniformly
    interval: Interval | None = None
    batched_guidance: bool = False
    classifier: ClassifierGuidance | None = None
    candidates: int = 1

    def describe(self) -> str:
        """Describes the settings in words."""
        words = [f"{self.steps} steps of {self.rule.name}", f"guidance {self.guidance_weight:g}"]
        if self.interval is not None:
            words.append(f"between log-SNR {self.interval.noisiest:g} and {self.interval.cleanest:g}")
        if self.classifier is not None:
            words.append(self.classifier.describe())
        if self.candidates > 1:
            words.append(f"best of {self.candidates}")
        return ", ".join([*words, f"augmentation level {self.augmentation_level:g}"])


def make_rule(checked: Mapping[str, Any]) -> StepRule:
    """Makes the step rule of checked settings.

    Raises:
        UserError: the rule "analytic" has no table of errors, or one of another length.
    """
    if checked["sampler"] != ANALYTIC:
        return STEP_RULES[checked["sampler"]](checked["gamma"], checked["eta"])
    try:
        errors = [float(value) for value in checked["estimate_errors"].split(",") if value]
    except ValueError:
        errors = []
    if len(errors) != len(ERROR_LOG_SNRS):
        raise UserError(
            f"sampler='analytic' needs the {len(ERROR_LOG_SNRS)} estimate_errors that a prior's training measures: "
            "choose it when sampling from a prior that was trained with config.training.evaluate_every, or another one"
        )
    return analytic(errors)


def make_settings(sampling: Mapping[str, Any]) -> SamplingSettings:
    """Makes the settings that ``config.sampling`` describes.

    Args:
        sampling: a value for every key of ``cascade.settings.SETTINGS``.

    Raises:
        UserError: a key, a sampler, a spacing or a thresholding is unknown, a number is out of its range, or "clip" has
            no limit.
    """
    checked = check_settings(sampling)
    if checked["thresholding"] == "clip" and checked["max_threshold"] >= NO_LIMIT:
        raise UserError("thresholding='clip' clips to max_threshold, which has no limit: set max_threshold, such as 5")
    return SamplingSettings(
        steps=checked["steps"],
        rule=make_rule(checked),
        guidance_weight=checked["guidance"],
        threshold=THRESHOLDS[checked["thresholding"]](checked["percentile"], checked["max_threshold"]),
        augmentation_level=checked["augmentation_level"],
        spacing=choose_spacing(checked["spacing"], checked["steps"], checked["sections"]),
        interval=Interval(*checked["guidance_interval"]) if checked["guidance_interval"] else None,
        batched_guidance=checked["batched_guidance"],
        candidates=checked["candidates"],
    )
