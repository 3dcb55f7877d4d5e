"""Writes the report of a retrieval: JSON, and a page with examples in both directions.

report, images -> OUT/report.json, OUT/report.html
"""

import functools
from collections.abc import Mapping
from typing import Any

from imagen_jax.evaluation.protocols.image_embeddings import read_pixels
from imagen_jax.evaluation.protocols.references import Reference
from imagen_jax.evaluation.protocols.retrieval_run import DIRECTIONS, RetrievalRun
from imagen_jax.evaluation.reports.classification_page import show
from imagen_jax.evaluation.reports.html_pages import write_page
from imagen_jax.evaluation.reports.html_report import all_sections
from imagen_jax.evaluation.reports.report import write_report
from imagen_jax.storage.paths import Path

REPORT, PAGE = "report.json", "report.html"

KEYS_WITH_LAYOUT = ("title", "headline", "warnings", *DIRECTIONS)


def write_retrieval(out: Path, report: Mapping[str, Any], reference: Reference, run: RetrievalRun) -> None:
    """Writes both files of a retrieval.

    Args:
        out: folder of the files.
        report: the result of ``retrieval_run.make_report``.
        reference: the split.
        run: the results.

    Raises:
        UserError: a file can't be written, or an image can't be read.
    """
    write_report(out / REPORT, report)

    @functools.cache
    def image(number: int) -> dict[str, str]:
        own = (run.pairs.captions[caption] for caption in run.pairs.captions_of[number])
        return {"address": show(read_pixels(reference, number)), "caption": "; ".join(own)}

    values = {
        "title": report["title"],
        "subtitle": f"{report['clip']['network']} on {reference.name}",
        "warnings": report["warnings"],
        "rows": [(name, getattr(run.retrieval, field)) for field, name in DIRECTIONS.items()],
        "of_images": [
            {
                **image(one.query),
                "rank": one.rank,
                "items": [
                    (run.pairs.captions[item], right) for item, right in zip(one.items, one.is_right, strict=True)
                ],
            }
            for one in run.of_images
        ],
        "of_captions": [
            {
                "caption": run.pairs.captions[one.query],
                "rank": one.rank,
                "items": [(image(item), right) for item, right in zip(one.items, one.is_right, strict=True)],
            }
            for one in run.of_captions
        ],
        "sections": all_sections({key: value for key, value in report.items() if key not in KEYS_WITH_LAYOUT}),
    }
    write_page(out / PAGE, "retrieval.html.jinja", values)
