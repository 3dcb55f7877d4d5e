"""Words that the project has given up for the field's words, and phrases that are hard to read."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]

NAMES = {
    "Company", "take_turns", "said_by_first", "Wish", "wishes", "told_when_refused", "make_showing", "find_owed",
    "make_noting", "Moment", "walk_all", "going_back", "lead_away", "never_asked", "LONG_AGO", "stored_cut",
    "count_parts", "Labelled", "MEASURES", "MOST_TOLD", "LARGEST_SHOWN", "ENDLESS", "skips_in_a_row",
    "when_not_finite", "largest_bad_share", "guide_at_once", "most_rewinds", "noise_measure",
}  # fmt: skip
"""Identifiers that have got other names."""

LIMITS = re.compile(r"(MOST|LARGEST|LONGEST|FEWEST|LEAST|SMALLEST|SHORTEST)(_[A-Z_]+)?")
"""Constants are called ``MAX_…`` and ``MIN_…``."""

PHRASES = re.compile(
    r"so-manieth|\bbar the\b|\bwhoever\b|\bin the box\b|\bbegins? anew\b|\bfewest\b|\bcut over (fsdp|tensor|data)\b|"
    r"\bwhence\b|\bgoes on\b|^\s+\w+: (likewise|see there)\.$",
    re.IGNORECASE | re.MULTILINE,
)
"""In docstrings and comments."""


MESSAGES = re.compile(
    r"\b(mends?|mended|anew|whoever|nobody|bar the)\b|(?<!there )\b(is|are) no\b(?! longer| more)", re.IGNORECASE
)
"""In messages, help of flags and other texts of the program."""

FINGERPRINTED = {"caption is no text"}
"""Texts that are part of a fingerprint, so that a preparation which an earlier version has begun can resume."""


def names_in(tree: ast.Module) -> Iterator[str]:
    """Every name that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def prose_in(source: str) -> Iterator[str]:
    """The docstrings and comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def messages_in(tree: ast.Module) -> Iterator[str]:
    """The texts of a module that are not docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def find_banned(source: str) -> list[str]:
    """The banned names and phrases of a module."""
    tree = ast.parse(source)
    names = [name for name in names_in(tree) if name in NAMES or LIMITS.fullmatch(name)]
    names += [match[0].strip() for text in prose_in(source) for match in PHRASES.finditer(text)]
    messages = [text for text in messages_in(tree) if text not in FINGERPRINTED]
    return names + [match[0] for text in messages for match in MESSAGES.finditer(text)]


def test_banned_words_stay_out():
    files = sorted((CHECKOUT / "imagen_jax").rglob("*.py"))
    found = {file.relative_to(CHECKOUT).as_posix(): find_banned(file.read_text(encoding="utf-8")) for file in files}
    assert {name: words for name, words in found.items() if words} == {}


def test_a_banned_word_is_found():
    assert find_banned("LARGEST_SIDE = 4\nMAX_SIDE = 4\n") == ["LARGEST_SIDE"]
    assert find_banned("def f(wishes): ...\nclass Moment: ...\n") == ["Moment", "wishes"]
    assert find_banned('"""Whoever reads this begins anew.\n\n    Args:\n        x: likewise.\n"""\n') == [
        "Whoever", "begins anew", "x: likewise.",
    ]  # fmt: skip
    assert find_banned("# it goes on\n") == ["goes on"]
    assert find_banned('raise UserError(f"{x} is no flag: mend it, there is no other")\n') == ["is no", "mend"]
