"""What a folder of a data set was begun with: the same is continued, what failed gives way, all else is refused.

job -> OUT/job.json -> the same job, wherever its source lies now, or a sentence that says what differs
"""

import inspect
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from imagen_jax.data.preparation.conversion import REPORT
from imagen_jax.data.preparation.shards import read_json, write_json
from imagen_jax.data.sources.parted_sources import PARTED_SOURCES
from imagen_jax.data.stored_images import MANIFEST
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path

PARTS = "parts"
JOB = "job.json"
UNFIT = "unfit.json"
"""What says that the source gave nothing to train on, or too much that is bad: the command is to be corrected."""


class UnfitError(UserError):
    """What the source gives is no data set: the same command would say so again."""


def begin(wanted: Mapping[str, Any], out: pathlib.Path) -> None:
    """Writes down what is made in ``out``, or checks that it is the same that was begun there.

    What a start left that failed gives way to the corrected one.

    Args:
        wanted: what makes this data set another than others, see ``Preparation.describe``.
        out: folder of the data set.

    Raises:
        UserError: it is something else.
    """
    try:
        begun = check_begun(wanted, out)
    except UserError:
        if (out / MANIFEST).exists() or not ((out / UNFIT).exists() or holds_no_record(out / PARTS)):
            raise
        shutil.rmtree(out / PARTS, ignore_errors=True)
        begun = False
    if not begun:
        write_json(out / JOB, dict(wanted))
    (out / UNFIT).unlink(missing_ok=True)


@contextmanager
def noting_unfit(out: pathlib.Path) -> Iterator[None]:
    """Notes in ``out`` where the block finds the source unfit, so that the corrected command may begin there anew."""
    try:
        yield
    except UnfitError as error:
        write_json(out / UNFIT, {"unfit": str(error)})
        raise


def holds_no_record(parts: pathlib.Path) -> bool:
    """Whether no record of the parts that are made was good enough to keep."""
    reports = [read_json(file) for file in parts.glob(f"*/{REPORT}")]
    return not any(sum(report["counts"].values()) for report in reports if report is not None)


def check_begun(wanted: Mapping[str, Any], out: Path) -> bool:
    """Whether a data set was begun in ``out``, after checking that it is this one, wherever its source lies now.

    Raises:
        UserError: it is another.
    """
    begun = read_json(out / JOB)
    if begun is None:
        return False
    one, other = (
        {**job, "options": without_places(wanted["source"], job.get("options", {}))} for job in (begun, wanted)
    )
    names = [name for name in wanted if one.get(name) != other[name]]
    if names:
        what = "the source's files have changed" if names == ["parts"] else f"with another {' and '.join(names)}"
        raise UserError(f"{out} holds a data set that was begun otherwise ({what}): choose another --out")
    return True


def without_places(source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A source's options without those that name a place; the fingerprints of its parts tell what lies there."""
    if source not in PARTED_SOURCES:
        return dict(options)
    parameters = inspect.signature(PARTED_SOURCES[source].list_all).parameters
    places = {name for name, parameter in parameters.items() if "Path" in str(parameter.annotation)}
    return {name: value for name, value in options.items() if name not in places}
