"""The site builds without a warning, its links lead somewhere, and it needs no other machine."""

import html.parser
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import CHECKOUT, DOCS, name_of
from tests.forked_programs import run_forked

pytestmark = [pytest.mark.slow(seconds=60), pytest.mark.references]

MAX_LINES = 90
"""Lines between two headings: about two screens."""


class Page(html.parser.HTMLParser):
    """The addresses that a page links to, those that it loads by itself, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag in ("a", "area"):
            self.links += [given["href"]] if "href" in given else []
        else:
            self.loaded += [given[name] for name in ("href", "src", "data", "poster", "action") if given.get(name)]
            self.loaded += re.findall(r"url\(['\"]?([^)'\"]+)", given.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, and the pages in it."""
    out = tmp_path_factory.mktemp("site")
    done = run_forked("sphinx", "--builder=html", "--fail-on-warning", "--quiet", str(DOCS), str(out))
    assert done.returncode == 0, done.stderr
    return out, {path: Page(path.read_text(encoding="utf-8")) for path in out.rglob("*.html")}


def is_elsewhere(address: str) -> bool:
    """Whether an address leads out of the site."""
    return bool(urlsplit(address).scheme or address.startswith("//")) and not address.startswith("data:")


def test_no_link_within_the_site_is_broken(site):
    _, pages = site
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if is_elsewhere(link):
                continue
            there, _, anchor = link.partition("#")
            target = (path.parent / unquote(there)).resolve() if there else path
            target = target / "index.html" if target.is_dir() else target
            has_anchor = not anchor or target not in pages or unquote(anchor) in pages[target].anchors
            if not target.exists() or not has_anchor:
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_no_page_loads_anything_from_another_machine(site):
    out, pages = site
    assert {address for page in pages.values() for address in page.loaded if is_elsewhere(address)} == set()
    for path in out.rglob("*.css"):
        urls = re.findall(r"url\(['\"]?([^)'\"]+)|@import ['\"]([^'\"]+)", path.read_text(encoding="utf-8"))
        assert not [url for pair in urls for url in pair if is_elsewhere(url)], path
    for path in out.rglob("*.js"):
        script = path.read_text(encoding="utf-8")
        assert not re.search(r"(?:fetch|import|importScripts|open)\(\s*['\"`](?:https?:)?//", script), path


def test_every_public_module_is_in_the_reference(site):
    _, pages = site
    files = [path.relative_to(CHECKOUT).with_suffix("") for path in (CHECKOUT / "imagen_jax").rglob("*.py")]
    modules = {".".join(file.parts).removesuffix(".__init__") for file in files}
    described = {anchor for path, page in pages.items() if path.parent.name == "api" for anchor in page.anchors}
    missing = {module for module in modules if "._" not in module} - {one.removeprefix("module-") for one in described}
    assert missing == set()


def test_formulas_are_markup_that_a_browser_shows_by_itself(site):
    out, _ = site
    for path in out.rglob("*.html"):
        assert not re.search(r"<script[^>]*(mathjax|katex)", path.read_text(encoding="utf-8").lower()), path
    assert "<math" in (out / "how_it_works.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=name_of)
def test_two_screens_have_a_heading(page: Path):
    if page.name == "glossary.md":
        return
    lines = page.read_text(encoding="utf-8").split("\n")
    headings = [number for number, line in enumerate(lines) if re.match(r"#+ ", line)]
    assert headings and headings[0] <= 3
    gaps = {lines[start]: end - start for start, end in zip(headings, [*headings[1:], len(lines)], strict=True)}
    assert {heading: gap for heading, gap in gaps.items() if gap > MAX_LINES} == {}
