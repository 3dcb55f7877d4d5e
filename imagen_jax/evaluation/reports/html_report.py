"""Writes the report of an evaluation as a page, with all facts that a reader needs to repeat the evaluation.

    report.json -> headline cards, warnings, figures, comparison table, every other fact as tables -> one HTML file

The page shows all keys of the report. Keys without a layout of their own, such as ``protocol`` and ``versions``, become
tables of facts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from imagen_jax.errors import UserError, lookup
from imagen_jax.evaluation.reports import published
from imagen_jax.evaluation.reports.html_pages import data_uri, write_page
from imagen_jax.storage.paths import Path
from imagen_jax.storage.refusals import raise_if_denied

DIRECTIONS = {"lower": "↓ lower is better", "higher": "↑ higher is better"}
KEYS_WITH_LAYOUT = ("title", "headline", "warnings", "table")
NOTHING = "—"


class Fact(NamedTuple):
    """A line of a table of facts.

    Attributes:
        name: the name in words, with the names of the outer keys for a nested fact.
        text: the value.
    """

    name: str
    text: str


class Grid(NamedTuple):
    """A list of records as a table.

    Attributes:
        name: the name in words.
        columns: the names of the columns in words.
        lines: the rows, with one text per column.
    """

    name: str
    columns: list[str]
    lines: list[list[str]]


class Section(NamedTuple):
    """Facts under a heading.

    Attributes:
        title: the heading.
        facts: the facts, one per line.
        grids: lists of records, below the facts.
    """

    title: str
    facts: list[Fact]
    grids: list[Grid]


def write_html_report(path: Path, report: Mapping[str, Any], figures: Mapping[str, Path | bytes]) -> int:
    """Writes a report as a page.

    Args:
        path: the HTML file.
        report: the contents of ``report.json``. ``title`` is the heading. ``headline`` is a list of ``name``,
            ``value``, ``better`` ("lower" or "higher") and optionally ``uncertainty`` and ``note``. ``warnings`` is a
            list of sentences. ``table`` has rows as from ``published.TableRow.as_dict``. All other keys are facts, with
            any nesting.
        figures: PNG, JPEG, WebP or SVG images, or paths of them, by their captions.

    Returns:
        The size of the page in bytes.

    Raises:
        UserError: a figure can't be read, a direction is unknown, or the page can't be written.
    """
    others = {key: value for key, value in report.items() if key not in KEYS_WITH_LAYOUT}
    values = {
        "title": report.get("title", "Evaluation"),
        "headline": [headline_card(entry) for entry in report.get("headline", ())],
        "warnings": list(report.get("warnings", ())),
        "figures": {name: data_uri(content_of(figure), f"the figure {name!r}") for name, figure in figures.items()},
        "table_title": published.TITLE,
        "column": published.COLUMN,
        "groups": by_group(report.get("table") or ()),
        "sections": all_sections(others),
    }
    return write_page(path, "report.html.jinja", values)


def content_of(figure: Path | bytes) -> bytes:
    """Returns the bytes of a figure.

    Raises:
        UserError: the figure can't be read.
    """
    if isinstance(figure, bytes):
        return figure
    try:
        return figure.read_bytes()
    except OSError as error:
        raise_if_denied(error, figure)
        raise UserError(f"the figure {figure} can't be read ({error.strerror or error}): plot it again") from error


def headline_card(entry: Mapping[str, Any]) -> dict[str, str]:
    """Returns a headline number as texts: ``name``, ``value``, ``uncertainty``, ``direction``, ``note``; "" for none.

    Raises:
        UserError: the direction is neither "lower" nor "higher".
    """
    uncertainty = entry.get("uncertainty")
    if uncertainty is not None and not isinstance(uncertainty, str):
        uncertainty = f"± {in_figures(uncertainty)}"
    return {
        "name": str(entry["name"]),
        "value": in_figures(entry["value"]),
        "uncertainty": uncertainty or "",
        "direction": lookup(DIRECTIONS, entry["better"], "direction"),
        "note": str(entry.get("note") or ""),
    }


def in_figures(value: Any) -> str:
    """Formats a headline number to four significant digits. Integers and large numbers get commas and no decimals."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return in_text(value)
    return f"{value:,.0f}" if isinstance(value, int) or 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def by_group(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Groups the rows of a comparison table by their headings, in the given order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        value = row.get("value")
        shown = {
            "name": row["name"],
            "value": NOTHING if value is None else f"{value:.2f}",
            "note": "; ".join(filter(None, [row.get("note"), row.get("source")])),
            "ours": bool(row.get("ours")),
        }
        groups.setdefault(row.get("group") or "", []).append(shown)
    return groups


def all_sections(facts: Mapping[str, Any]) -> list[Section]:
    """Returns the sections of all facts. Plain values are collected in a section of their own, before the others."""
    alone = {key: value for key, value in facts.items() if not isinstance(value, Mapping) and not is_list(value)}
    nested = {key: value for key, value in facts.items() if key not in alone}
    first = [section_of("Summary", alone)] if alone else []
    return [*first, *(section for key, value in nested.items() for section in sections_of(in_words(key), value))]


def sections_of(title: str, value: Any) -> list[Section]:
    """Returns one section for the plain facts of a mapping, and one for each mapping in it."""
    if not isinstance(value, Mapping):
        value = {title: value}
    parts = {key: part for key, part in value.items() if isinstance(part, Mapping) and part}
    plain = section_of(title, {key: part for key, part in value.items() if key not in parts})
    sections = [section_of(f"{title}: {in_words(key)}", part) for key, part in parts.items()]
    return [plain, *sections] if plain.facts or plain.grids or not sections else sections


def section_of(title: str, facts: Mapping[str, Any]) -> Section:
    """Returns a section with all facts of a mapping, at any depth."""
    flat = [item for key, value in facts.items() for item in flatten(in_words(key), value)]
    return Section(
        title,
        [item for item in flat if isinstance(item, Fact)],
        [item for item in flat if isinstance(item, Grid)],
    )


def flatten(name: str, value: Any) -> Iterator[Fact | Grid]:
    """Yields a fact for a plain value or list, a grid for a list of records, and both for parts of nested values."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flatten(f"{name} › {in_words(key)}", part)
    elif is_list(value) and value and all(is_record(part) for part in value):
        columns = list(dict.fromkeys(key for part in value for key in part))
        lines = [[in_text(part.get(column)) for column in columns] for part in value]
        yield Grid(name, [in_words(column) for column in columns], lines)
    elif is_list(value) and any(isinstance(part, Mapping) or is_list(part) for part in value):
        for number, part in enumerate(value, start=1):
            yield from flatten(f"{name} › {number}", part)
    else:
        yield Fact(name, in_text(value))


def is_list(value: Any) -> bool:
    """Returns whether a value is a sequence, but not text or bytes."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_record(value: Any) -> bool:
    """Returns whether a value is a mapping without nested values."""
    return isinstance(value, Mapping) and not any(isinstance(part, Mapping) or is_list(part) for part in value.values())


def in_words(key: Any) -> str:
    """Returns a key as a heading, with spaces for underscores."""
    return str(key).replace("_", " ")


def in_text(value: Any) -> str:
    """Formats a value so that it can be copied: without commas between thousands."""
    if value is None or value == "" or (isinstance(value, Mapping) and not value):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if is_list(value):
        return ", ".join(map(in_text, value)) or NOTHING
    return str(value)
