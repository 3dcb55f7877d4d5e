"""The keys of ``config.sampling`` and the checks of their values.

one value for all stages, or a list with one per stage -> the checked settings of each stage
"""

import math
import numbers
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from typing import Any

from imagen_jax.errors import UserError, check_names, nearest_name
from imagen_jax.sampling.guidance import MAX_GUIDANCE
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.sampling.spacings import SPACINGS
from imagen_jax.sampling.thresholding import THRESHOLDS, check_percentile

MAX_STEPS = 100_000

ANALYTIC = "analytic"
"""The sampler that needs ``estimate_errors``."""

Check = Callable[[str, Any], Any]
"""``check(name, value) -> value``, converted to the type that sampling uses; raises ``UserError``."""


def number(lowest: float | int, highest: float | int, example: str) -> Check:
    """Makes a check for a number in [``lowest``, ``highest``]; its message suggests ``example``."""

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise UserError(f"{name} must be a number such as {example}, not {value!r}")
        asked = float(value)
        if not float(lowest) <= asked <= float(highest):
            raise UserError(
                f"{name} must be between {lowest:g} and {highest:g}, not {asked:g}: give one like {example}"
            )
        return asked

    return check


def whole(lowest: int, highest: int) -> Check:
    """Makes a check for an integer in [``lowest``, ``highest``]."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise UserError(f"{name} must be an integer such as {max(lowest, 4)}, not {value!r}")
        if not lowest <= int(value) <= highest:
            raise UserError(f"{name} must be between {lowest} and {highest}, not {value}")
        return int(value)

    return check


at_least_one = whole(1, 2**31 - 1)


SAMPLERS = ChainMap[str, Any](STEP_RULES, {ANALYTIC: None})
"""The names of samplers: of all step rules, later ones too, and of that which needs a table of a prior's errors."""


def one_of(table: Collection[str]) -> Check:
    """Makes a check for a name in ``table``."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in table:
            raise UserError(f"unknown {name} {value!r}{nearest_name(str(value), table)}")
        return value

    return check


def truth(name: str, value: Any) -> bool:
    """Checks a boolean.

    Raises:
        UserError: the value is not a bool.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name} must be True or False, not {value!r}")
    return value


def text(name: str, value: Any) -> str:
    """Checks a string, whose meaning is checked where it is read.

    Raises:
        UserError: the value is no string.
    """
    if not isinstance(value, str):
        raise UserError(f"{name} must be a string, not {value!r}")
    return value


def percentile(name: str, value: Any) -> float:
    """Checks the percentile of dynamic thresholding, in (1, 100].

    Raises:
        UserError: the value is not such a number.
    """
    asked = number(0, 100, "99.5")(name, value)
    check_percentile(asked)
    return asked


def interval(name: str, value: Any) -> tuple[float, ...]:
    """Checks an interval: two log-SNRs, the lower first; or None or an empty list for no limits, returned as ``()``.

    Raises:
        UserError: it is neither.
    """
    ends = value if isinstance(value, list | tuple) else () if value is None else (value,)
    if not ends:
        return ()
    check = number(-math.inf, math.inf, "-4")
    if len(ends) != 2 or not check(name, ends[0]) <= check(name, ends[1]):
        raise UserError(f"{name} must be two log-SNRs, the lower one first, such as -4,3, not {value!r}")
    return float(ends[0]), float(ends[1])


SETTINGS: dict[str, Check] = {
    "sampler": one_of(SAMPLERS),
    "steps": whole(1, MAX_STEPS),
    "guidance": number(-MAX_GUIDANCE, MAX_GUIDANCE, "3"),
    "spacing": one_of(SPACINGS),
    "sections": text,
    "thresholding": one_of(THRESHOLDS),
    "percentile": percentile,
    "max_threshold": number(1, math.inf, "1.5"),
    "gamma": number(0, 1, "0.5"),
    "eta": number(0, 1, "0.5"),
    "guidance_interval": interval,
    "batched_guidance": truth,
    "augmentation_level": number(0, 1, "0.1"),
    "candidates": whole(1, 64),
    "estimate_errors": text,
}
"""Every key of ``config.sampling``, and the check of its value."""

ELSEWHERE = {
    "cfg_scale": "guidance",
    "guidance_scale": "guidance",
    "guidance_weight": "guidance",
    "noise_level": "augmentation_level",
    "num_inference_steps": "steps",
    "num_sampling_steps": "steps",
    "num_steps": "steps",
    "sampling_steps": "steps",
    "scheduler": "sampler",
    "generator": "seed",
    "num_images_per_prompt": "samples_per_prompt",
    "num_samples": "samples_per_prompt",
    "image": "edit=imagen_jax.Edit(image=…)",
    "init_image": "edit=imagen_jax.Edit(image=…)",
    "mask": "edit=imagen_jax.Edit(mask=…)",
    "mask_image": "edit=imagen_jax.Edit(mask=…)",
    "strength": "edit=imagen_jax.Edit(strength=…)",
    "prompt": "prompts",
}
"""Names of settings in diffusers and other libraries, and our names for them."""


SIZES = frozenset({"height", "image_size", "resolution", "size", "width"})
"""Settings of other libraries that no setting of ours corresponds to: the stages have fixed resolutions."""


def refuse_sizes(given: Collection[str]) -> None:
    """Refuses the names in ``SIZES``.

    Raises:
        UserError: one is given.
    """
    for name in sorted(SIZES & {*given}):
        raise UserError(f"sample() has no setting {name!r}: leave it out, for the stages decide the size of images")


def check_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the settings of one stage.

    Args:
        given: values for keys of ``SETTINGS``.

    Returns:
        The same settings, each value converted to the type that sampling uses.

    Raises:
        UserError: a key is unknown (names the nearest), or a value has the wrong type or is out of range.
    """
    check_names(given, SETTINGS, "setting of sampling", ELSEWHERE)
    return {name: SETTINGS[name](name, value) for name, value in given.items()}


def pick_for_stage(overrides: Mapping[str, Any], number: int, stages: int) -> dict[str, Any]:
    """Returns the overrides of one stage: from a list its own entry, otherwise the common value.

    A guidance interval is itself a pair: a pair of numbers is one interval for all stages.

    Args:
        overrides: values for keys of ``SETTINGS``: one value for all stages, or a list with one per stage.
        number: index of the stage, from 0.
        stages: number of stages.

    Raises:
        UserError: a list has neither one entry nor one per stage, or what ``check_settings`` raises.
    """
    picked = {}
    for key, value in overrides.items():
        is_list = isinstance(value, list | tuple)
        if is_list and key == "guidance_interval":
            is_list = any(isinstance(one, list | tuple) for one in value)
        if is_list:
            if len(value) not in (1, stages):
                raise UserError(f"--{key} has {len(value)} values for {stages} stage(s): give one, or one per stage")
            value = value[number if len(value) > 1 else 0]
        picked[key] = value
    return check_settings(picked)
