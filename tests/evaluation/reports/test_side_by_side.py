"""Models side by side: every image in its position, visible gaps, one file of bounded size."""

import io

import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade.image_files import encode_picture, file_name
from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports import side_by_side
from imagen_jax.evaluation.reports.drawbench import DrawBenchPrompt
from imagen_jax.evaluation.reports.html_pages import thumbnail
from imagen_jax.evaluation.reports.side_by_side import ModelImages, images_by_prompt, write_side_by_side
from tests.evaluation.reports.html_outline import Outline, check_self_contained, image_of

HOSTILE = "</h3><script>alert('x')</script> & \"ox\" onload=1"
PROMPTS = [
    DrawBenchPrompt("Text", HOSTILE),
    DrawBenchPrompt("Rare Words", "A zarf."),
    DrawBenchPrompt("Text", "A sign that says 'Go'."),
]
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def plain(colour, size=64):
    return np.full((size, size, 3), COLOURS[colour], np.uint8)


def write_image(folder, prompt, index, pixels, **more):
    folder.mkdir(exist_ok=True)
    path = folder / f"{file_name(prompt, more.get('seed', 0), index)}.png"
    path.write_bytes(encode_picture(pixels, "png", {"prompt": prompt, "index": str(index)}))
    return path


def colour_of(address):
    mean = np.asarray(image_of(address).convert("RGB")).reshape(-1, 3).mean(0)
    return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())


def write_page(tmp_path, models, prompts=PROMPTS):
    path = tmp_path / "page.html"
    size = write_side_by_side(path, models, prompts)
    assert size == path.stat().st_size
    outline = Outline(path.read_text(encoding="utf-8"))
    check_self_contained(outline)
    return outline


def links_in(outline, element):
    return [link.attributes["href"] for link in outline.all("a", within=element)]


def test_images_are_found_by_their_metadata_and_ordered_by_index(tmp_path):
    for index in (10, 2, 0):
        write_image(tmp_path / "a", "A zarf.", index, plain("red"))
    write_image(tmp_path / "a", HOSTILE, 0, plain("blue"))
    (tmp_path / "a" / "grid.png").write_bytes(encode_picture(plain("red"), "png", {"prompt": "A zarf.; x"}))
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "foreign.png")
    (tmp_path / "a" / "sampling.json").write_text("{}")
    found = images_by_prompt(tmp_path / "a")
    assert {prompt: [path.name[-6:] for path in paths] for prompt, paths in found.items()} == {
        "A zarf.": ["-0.png", "-2.png", "10.png"],
        HOSTILE: ["-0.png"],
    }


def test_no_image_is_decoded_to_find_it(tmp_path, monkeypatch):
    write_image(tmp_path / "a", "A zarf.", 0, plain("red"))

    def refuse(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", refuse)
    assert list(images_by_prompt(tmp_path / "a")) == ["A zarf."]


def test_folders_without_images_and_damaged_ones_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"/none\b"):
        images_by_prompt(tmp_path / "none")
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=r"half\.png"):
        images_by_prompt(tmp_path)


def test_each_image_is_with_its_prompt_and_model(tmp_path):
    ours = {
        HOSTILE: [
            write_image(tmp_path / "a", HOSTILE, index, plain(name)) for index, name in enumerate(("red", "green"))
        ],
        "A zarf.": [write_image(tmp_path / "a", "A zarf.", 0, plain("green"))],
    }
    theirs = {
        HOSTILE: [write_image(tmp_path / "b", HOSTILE, 0, plain("blue"))],
        "something else": [write_image(tmp_path / "b", "something else", 0, plain("blue"))],
    }
    models = [ModelImages("ours", ours, {"guidance": 1.35}), ModelImages("<theirs>", theirs)]
    outline = write_page(tmp_path, models)
    articles = outline.all("article")
    # Those of a category stand together, in the order in which categories come.
    assert [article.attributes["id"] for article in articles] == ["prompt-1", "prompt-2", "prompt-3"]
    titles = [outline.all("h3", within=article)[0].text for article in articles]
    assert titles == [HOSTILE, "A sign that says 'Go'.", "A zarf."]
    shown = []
    for article in articles:
        for figure in outline.all("figure", within=article):
            (caption,) = outline.all("figcaption", within=figure)
            images = [colour_of(image.attributes["src"]) for image in outline.all("img", within=figure)]
            gaps = [gap.text for gap in outline.all("div", within=figure, class_="missing")]
            shown.append((caption.text, images, gaps))
    assert shown == [
        ("ours", ["red", "green"], []),
        ("<theirs>", ["blue"], ["no image 2"]),
        ("ours", [], ["no image 1"]),
        ("<theirs>", [], ["no image 1"]),
        ("ours", ["green"], []),
        ("<theirs>", [], ["no image 1"]),
    ]
    assert outline.all("img")[0].attributes["alt"] == f"ours, image 1: {HOSTILE}"
    assert all(image.attributes["loading"] == "lazy" for image in outline.all("img"))


def test_the_page_lists_categories_prompts_and_settings_and_links_to_neighbours(tmp_path):
    ours = {"A zarf.": [write_image(tmp_path / "a", "A zarf.", 0, plain("green"))], "x": [tmp_path / "none.png"]}
    outline = write_page(tmp_path, [ModelImages("ours", ours, {"guidance <w>": "1.35 & 8"})])
    (contents,) = outline.all("nav")
    assert [link.text for link in outline.all("a", within=contents)] == ["Text 2", "Rare Words 1"]
    (prompts,) = outline.all("details")
    assert links_in(outline, prompts) == ["#prompt-1", "#prompt-2", "#prompt-3"]
    second = outline.all("article")[1]
    assert links_in(outline, second) == ["#prompt-2", "#prompt-1", "#prompt-3"]
    (header,) = outline.all("header")
    (row,) = outline.all("tr", within=header)
    assert [outline.all(tag, within=row)[0].text for tag in ("th", "td")] == ["guidance <w>", "1.35 & 8"]
    assert "3 prompts in 2 categories, 1 image " in header.text and "1 other prompt " in header.text


def test_images_are_reduced_to_their_max_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    path = write_image(tmp_path / "a", "noise", 0, noise)
    for max_bytes in (40_000, 20_000, 5_000, 1_000):
        content = thumbnail(path, 256, max_bytes)
        assert len(content) <= max_bytes
        with Image.open(io.BytesIO(content)) as image:
            assert max(image.size) <= 256 and abs(image.width / image.height - 2 / 3) < 0.03
    small = thumbnail(write_image(tmp_path / "a", "small", 0, plain("red", 16)), 256, 1_000)
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (16, 16), "not enlarged"


def test_a_page_stays_below_its_size_however_noisy_its_images(tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "MAX_ENCODED_BYTES", 60_000)
    generator = np.random.default_rng(0)
    images = [
        write_image(tmp_path / "a", "A zarf.", index, generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        for index in range(20)
    ]
    outline = write_page(tmp_path, [ModelImages("ours", {"A zarf.": images})])
    addresses = [image.attributes["src"] for image in outline.all("img")]
    assert len(addresses) == 20
    # 60,000 characters, and the 23 of "data:image/webp;base64," of each.
    assert sum(map(len, addresses)) <= 60_000 + 20 * 23
    monkeypatch.setattr(side_by_side, "MAX_ENCODED_BYTES", 20_000)
    with pytest.raises(UserError, match=r"\b20\b.*\b14\b"):
        write_page(tmp_path, [ModelImages("ours", {"A zarf.": images})])


def test_two_hundred_prompts_of_two_models_have_images_of_usual_size():
    share = int(side_by_side.MAX_ENCODED_BYTES / side_by_side.ENCODED / 3200)
    assert 12_000 < share < side_by_side.MAX_BYTES and side_by_side.MAX_ENCODED_BYTES < 60e6


def test_equal_images_give_equal_pages(tmp_path):
    models = [ModelImages("ours", {"A zarf.": [write_image(tmp_path / "a", "A zarf.", 0, plain("green"))]})]
    write_side_by_side(tmp_path / "one.html", models, PROMPTS)
    write_side_by_side(tmp_path / "two.html", models, PROMPTS)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_missing_and_damaged_images_are_refused(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(encode_picture(plain("red"), "png", {})[:60])
    with pytest.raises(UserError, match=r"broken\.png"):
        write_page(tmp_path, [ModelImages("ours", {"A zarf.": [broken]})])
    with pytest.raises(UserError, match=r"page\.html"):
        write_page(tmp_path, [ModelImages("ours", {"other": [broken]})])
    good = write_image(tmp_path / "a", "A zarf.", 0, plain("green"))
    with pytest.raises(UserError, match=r"none/page\.html"):
        write_page(tmp_path / "none", [ModelImages("ours", {"A zarf.": [good]})])
