"""Evaluation of a cascade: the function ``evaluate``, for notebooks and programs; its command is in ``commands``.

stages, request -> images -> features -> metrics (FID, KID, recall, CLIP score) -> report
"""

import runpy
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

if __name__ == "__main__":
    # As ``python -m imagen_jax.evaluate``, the command's older name. See ``train.py``.
    runpy.run_module("imagen_jax.commands.evaluate", run_name="__main__", alter_sys=True)

from imagen_jax.cascade.cascade import load_planned
from imagen_jax.cascade.image_files import make_folder
from imagen_jax.cascade.plans import CascadePlan, plan_cascade
from imagen_jax.errors import UserError, check_names, lookup
from imagen_jax.evaluation.protocols.deviations import PROTOCOLS, overrides_of
from imagen_jax.evaluation.protocols.requests import Wanted, check_wanted, make_request, open_data
from imagen_jax.evaluation.protocols.runs import run_evaluation
from imagen_jax.evaluation.protocols.sampled_images import StepBar
from imagen_jax.models import Network
from imagen_jax.pretrained import find_stages
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path, to_path


def evaluate(
    stages: str | Path | Sequence[str | Path],
    out: str | Path,
    wanted: Wanted | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    text_encoder: str | Path | None = None,
    network: type[Network] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluates a cascade, for notebooks and programs: samples images, measures them, and writes a report.

    Called again with the same arguments after an interruption, it continues and reports the same digits.

    Args:
        stages: folders of the stages, base first, or the name of a cascade; see ``load_cascade``.
        out: folder of the evaluation.
        wanted: request for the evaluation; None for one made of ``options``.
        overrides: values of keys of ``config.sampling``, which override the protocol's; see ``load_cascade``.
        batch_size: max number of images sampled at once.
        text_encoder: folder of the text encoder, if not where training found it; see ``load_cascade``.
        network: the class of a network of your own, as ``train`` took it; see ``load_cascade``.
        **options: attributes of ``Wanted``, such as ``samples=128`` or ``protocol="imagen"``; by default the protocol
            ``training_captions``.

    Returns:
        The content of ``report.json``. Its ``headline`` lists the main results, each with ``name`` and ``value``.

    Raises:
        UserError: an input of the user can't be used, an option is unknown, or the protocol is ``drawbench``.
    """
    wanted = read_options(wanted, options)
    if wanted.protocol == "drawbench":
        raise UserError("drawbench has no metrics: run imagen-jax evaluate --protocol=drawbench for its images")
    plan = plan_protocol(stages, wanted.protocol, overrides or {}, text_encoder=text_encoder, network=network)
    plan.check_effects(overrides or {})
    check_wanted(wanted)
    out = to_path(out)
    make_folder(out)
    steps = StepBar()
    with processes.lock_on_process_zero(out, "--out"):
        opened = open_data(plan.names[0], wanted)
        cascade = load_planned(plan, batch_size, steps)
        return run_evaluation(cascade, steps, make_request(cascade, out, wanted, opened))


def read_options(wanted: Wanted | None, options: Mapping[str, Any]) -> Wanted:
    """Returns the request for an evaluation that the arguments of ``evaluate`` describe.

    Raises:
        UserError: an option is unknown, or there are both a request and options.
    """
    own = ("stages", "out", "wanted", "overrides", "batch_size", "text_encoder", "network")
    known = [one.name for one in fields(Wanted)]
    check_names(options, [*known, *own], "option of evaluate()")
    if wanted is not None and options:
        raise UserError(f"{next(iter(options))} is given beside wanted: set it in Wanted, or leave wanted out")
    return wanted or Wanted(**options)


def plan_protocol(
    stages: str | Path | Sequence[str | Path],
    protocol: str,
    overrides: Mapping[str, Any],
    dtype: str | None = None,
    text_encoder: str | Path | None = None,
    network: type[Network] | None = None,
) -> CascadePlan:
    """Plans a cascade with the settings of a protocol. The user's overrides take precedence.

    Raises:
        UserError: the protocol is unknown, ``plan_cascade`` raises the error, or the first stage is no base.
    """
    folders = find_stages(stages)
    settings = {**overrides_of(lookup(PROTOCOLS, protocol, "protocol"), len(folders)), **overrides}
    plan = plan_cascade(folders, settings, dtype, text_encoder, network)
    plan.check_images()
    return plan
