"""What a browser would find in a page: elements with their attributes and text."""

import base64
import io
from html.parser import HTMLParser
from typing import NamedTuple

from PIL import Image

VOID = {"img", "meta", "br", "link", "input", "hr", "wbr"}


class Element(NamedTuple):
    tag: str
    attributes: dict
    pieces: list
    above: tuple

    @property
    def text(self):
        return " ".join("".join(self.pieces).split())


class Outline(HTMLParser):
    """All elements of a page in order; fails where one is closed that is not open."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), "no attribute twice"
        element = Element(tag, attributes, [], tuple(self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1].tag == tag, tag
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element.pieces.append(data)

    def all(self, tag, within=None, **attributes):
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            element
            for element in self.elements
            if element.tag == tag
            and all(element.attributes.get(name) == value for name, value in wanted.items())
            and (within is None or any(above is within for above in element.above))
        ]


def check_self_contained(outline):
    """Nothing is requested, nothing is run, every link leads somewhere in the page."""
    identifiers = [element.attributes["id"] for element in outline.elements if "id" in element.attributes]
    assert len(set(identifiers)) == len(identifiers)
    for element in outline.elements:
        assert element.tag not in {"script", "link", "iframe", "object", "base", "form"}
        for name, value in element.attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href"}:
                assert value.startswith("data:image/") or value.removeprefix("#") in identifiers, value
    (policy,) = [element for element in outline.all("meta") if "http-equiv" in element.attributes]
    assert policy.attributes["content"].startswith("default-src 'none'")


def image_of(address):
    kind, encoded = address.removeprefix("data:").split(";base64,")
    content = base64.b64decode(encoded, validate=True)
    image = Image.open(io.BytesIO(content))
    image.load()
    assert kind == Image.MIME[image.format]
    return image
