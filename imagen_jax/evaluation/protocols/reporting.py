"""Writes reports: one structure of plain values, as JSON for programs and as an HTML page for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.evaluation.protocols.evaluation import Measured, Request, describe_evaluation
from imagen_jax.evaluation.protocols.measures import Headline
from imagen_jax.evaluation.protocols.training_captions import FEW
from imagen_jax.evaluation.reports.html_report import write_html_report
from imagen_jax.evaluation.reports.published import OurNumber, table_with
from imagen_jax.evaluation.reports.report import describe_machine, write_report
from imagen_jax.storage.paths import Path, to_path

REPORT = "report.json"
PAGE = "report.html"
FIRST_PICTURES = 16


def make_report(
    cascade: Cascade,
    request: Request,
    measured: Measured,
    headline: Sequence[Headline] = (),
    extras: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns an evaluation's results, with every fact that a reader needs to repeat it.

    Args:
        cascade: the evaluated cascade.
        request: inputs and settings of the evaluation.
        measured: results of the evaluation.
        headline: further headline numbers, which come first.
        extras: further sections of the report.
    """
    facts = describe_evaluation(cascade, request)
    # The published numbers are distances to COCO, and do not compare with distances to other images.
    ours = our_number(cascade, request, measured) if request.protocol.dataset == "coco2014" else None
    return {
        "title": request.protocol.title,
        "headline": [one.as_dict() for one in (*headline, *measured.headline)],
        "warnings": [*(f"not the protocol: {deviation}" for deviation in facts["deviations"]), *measured.warnings],
        **(extras or {}),
        **facts,
        "numbers": measured.numbers,
        "drawing": {"pictures": len(measured.sampled.files), "drawn_now": measured.sampled.num_sampled,
                    "seconds": measured.sampled.seconds},
        **({} if ours is None else {"table": [row.as_dict() for row in table_with(ours)]}),
        "machine": describe_machine(),
    }  # fmt: skip


def describe_headline(report: Mapping[str, Any]) -> str:
    """Returns the headline numbers of a report in one line, caption recall beside chance and with a warning about few.

    Args:
        report: the content of ``report.json``.
    """
    numbers = []
    for one in report.get("headline", ()):
        chance = f" (chance {one['chance']:.2g})" if "chance" in one else ""
        numbers.append(f"{one['name']} {one['value']:.4g}{chance}")
    return "; ".join([*numbers, *(warning for warning in report.get("warnings", ()) if warning.startswith(FEW))])


def our_number(cascade: Cascade, request: Request, measured: Measured) -> OurNumber | None:
    """Returns this cascade's row for the table of published numbers.

    Returns None if the first network has no Fréchet distance.
    """
    network = request.networks[0] if request.networks else None
    if network is None or network.distance not in measured.numbers.get(network.name, {}):
        return None
    names = ", ".join(to_path(name).name for name in cascade.names)
    return OurNumber(
        name=f"this cascade ({names})",
        value=measured.numbers[network.name][network.distance]["distance"],
        distance=network.distance,
        network=network.title,
        samples=len(request.choice.captions),
        data=request.reference.name,
        on_coco=request.dataset == "coco2014",
        trained_on_coco=any("coco" in str(one.config.others.get("data", "")).lower() for one in cascade.trained),
    )


def write_reports(out: Path, report: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    """Writes ``report.json`` and ``report.html``.

    Raises:
        UserError: a file can't be written, or a figure can't be read.
    """
    write_report(out / REPORT, report)
    write_html_report(out / PAGE, report, figures)
