"""Records the job that a data set's folder was started with. The same job resumes; a failed one may be replaced.

job -> OUT/job.json -> the same job, wherever its source is now, or an error that says what differs
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
"""File that marks the source as unfit: it has no training data, or too much of it is bad.

A corrected command may replace the job.
"""


class UnfitError(UserError):
    """Raised if the source gives no usable data set: the same command would fail again."""


def begin(wanted: Mapping[str, Any], out: pathlib.Path) -> None:
    """Records the job of the data set in ``out``, or checks that the same job was started there.

    A failed job is replaced: one that found the source unfit, or that has kept no record yet.

    Args:
        wanted: settings that distinguish this data set from others, see ``Preparation.describe``.
        out: folder of the data set.

    Raises:
        UserError: another job was started there.
    """
    try:
        begun = check_begun(wanted, out)
    except UserError:
        if (out / MANIFEST).exists() or not ((out / UNFIT).exists() or has_no_record(out / PARTS)):
            raise
        shutil.rmtree(out / PARTS, ignore_errors=True)
        begun = False
    if not begun:
        write_json(out / JOB, dict(wanted))
    (out / UNFIT).unlink(missing_ok=True)


@contextmanager
def noting_unfit(out: pathlib.Path) -> Iterator[None]:
    """Writes ``UNFIT`` into ``out`` if the block raises ``UnfitError``, so that a corrected command may start there."""
    try:
        yield
    except UnfitError as error:
        write_json(out / UNFIT, {"unfit": str(error)})
        raise


def has_no_record(parts: pathlib.Path) -> bool:
    """Returns whether no finished part has kept any record."""
    reports = [read_json(file) for file in parts.glob(f"*/{REPORT}")]
    return not any(sum(report["counts"].values()) for report in reports if report is not None)


def check_begun(wanted: Mapping[str, Any], out: Path) -> bool:
    """Returns whether a job was started in ``out``, and checks that it is the same, wherever its source is now.

    Raises:
        UserError: another job was started there.
    """
    begun = read_json(out / JOB)
    if begun is None:
        return False
    one, other = (
        {**job, "options": without_paths(wanted["source"], job.get("options", {}))} for job in (begun, wanted)
    )
    names = [name for name in wanted if one.get(name) != other[name]]
    if names:
        what = "the source's files have changed" if names == ["parts"] else f"another {' and '.join(names)}"
        raise UserError(f"{out} contains a data set with other settings ({what}): choose another --out")
    return True


def without_paths(source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a source's options except paths; the fingerprints of its parts identify the files there."""
    if source not in PARTED_SOURCES:
        return dict(options)
    parameters = inspect.signature(PARTED_SOURCES[source].list_all).parameters
    path_names = {name for name, parameter in parameters.items() if "Path" in str(parameter.annotation)}
    return {name: value for name, value in options.items() if name not in path_names}
