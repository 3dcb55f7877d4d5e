"""Cases of a test, of which some run with ``--thorough`` alone."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pytest


def thorough_except(kept: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases; all but those that are kept are marked as thorough."""
    return [case if case in kept else pytest.param(case, marks=pytest.mark.thorough) for case in cases]


def thorough_rows_except(kept: Collection[Any], rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The rows, each of which has a value for each of several arguments; all but those that are kept are thorough."""
    return [row if row in kept else pytest.param(*row, marks=pytest.mark.thorough) for row in rows]


def named_cases(cases: Mapping[str, Any], kept: int) -> list[Any]:
    """The cases with their names; all but the first few that are kept are marked as thorough."""
    return [
        pytest.param(case, id=name, marks=[pytest.mark.thorough] if number >= kept else [])
        for number, (name, case) in enumerate(cases.items())
    ]
