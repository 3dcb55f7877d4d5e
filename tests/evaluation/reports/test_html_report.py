"""The report as a page: every fact is on it, as text and nothing else, and the table's FID is FID."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.html_report import in_figures, in_text, write_html_report
from imagen_jax.evaluation.reports.published import PUBLISHED, OurNumber, table_with
from imagen_jax.evaluation.reports.report import write_report
from tests.evaluation.reports.html_outline import Outline, check_self_contained, image_of

HOSTILE = "</td></table><script>alert('x')</script> & \"ox\""

# As the lecture slides of the seed material print it.
SLIDE = """
Trained on COCO
AttnGAN (Xu et al., 2017) 35.49
DM-GAN (Zhu et al., 2019) 32.64
DF-GAN (Tao et al., 2020) 21.42
DM-GAN + CL (Ye et al., 2021) 20.79
XMC-GAN (Zhang et al., 2021) 9.33
LAFITE (Zhou et al., 2021) 8.12
Make-A-Scene (Gafni et al., 2022) 7.55
Not trained on COCO
DALL-E (Ramesh et al., 2021) 17.89
GLIDE (Nichol et al., 2021) 12.24
DALL-E 2 (Ramesh et al., 2022) 10.39
Imagen (Saharia et al., 2022) 7.27
""".strip().splitlines()


def ours(**changed):
    facts = {"name": "ours", "value": 21.431, "distance": "FID", "network": "Inception-v3 of 2015-12-05",
             "samples": 30000, "data": "COCO 2014 validation", "on_coco": True, "trained_on_coco": False}  # fmt: skip
    return OurNumber(**{**facts, **changed})


def write_page(tmp_path, report, figures=None):
    path = tmp_path / "report.html"
    size = write_html_report(path, report, figures or {})
    assert size == path.stat().st_size
    outline = Outline(path.read_text(encoding="utf-8"))
    check_self_contained(outline)
    return outline


def lines_of(outline, **where):
    """The texts of the cells of each row of a table."""
    (table,) = outline.all("table", **where)
    return [cells_of(outline, row) for row in outline.all("tr", within=table)]


def cells_of(outline, row):
    cells = [element for element in outline.elements if element.tag in {"th", "td"}]
    return [cell.text for cell in cells if any(above is row for above in cell.above)]


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(file, "PNG")
    return file.getvalue()


def test_headline_numbers_say_their_direction_and_uncertainty(tmp_path):
    headline = [
        {"name": "FID-10K", "value": 21.43124, "uncertainty": 0.2134, "better": "lower", "note": HOSTILE},
        {"name": "CLIP score", "value": 0.27, "uncertainty": "0.26 to 0.28", "better": "higher"},
        {"name": "pictures", "value": 30000, "better": "higher"},
        {"name": "none", "value": None, "better": "lower"},
    ]
    outline = write_page(tmp_path, {"title": HOSTILE, "headline": headline})
    assert outline.all("h1")[0].text == outline.all("title")[0].text == HOSTILE
    (cards,) = outline.all("ul", class_="cards")
    assert [card.text for card in outline.all("li", within=cards)] == [
        f"FID-10K 21.43 ± 0.2134 ↓ lower is better {HOSTILE}",
        "CLIP score 0.27 0.26 to 0.28 ↑ higher is better",
        "pictures 30,000 ↑ higher is better",
        "none — ↓ lower is better",
    ]
    with pytest.raises(UserError, match=r"'lowe'.*'lower'"):
        write_page(tmp_path, {"headline": [{"name": "x", "value": 1.0, "better": "lowe"}]})


def test_numbers_are_rounded_for_readers():
    shown = {7.2712: "7.271", 0.00012345: "0.0001234", 123456.7: "123,457", -0.5: "-0.5", float("inf"): "inf"}
    assert {value: in_figures(value) for value in shown} == shown
    assert in_text(1234567.0) == "1.23457e+06" and in_text(1234567) == "1234567"


def test_warnings_are_in_a_list(tmp_path):
    outline = write_page(tmp_path, {"warnings": ["too few", HOSTILE]})
    (aside,) = outline.all("aside", class_="warnings")
    assert [item.text for item in outline.all("li", within=aside)] == ["too few", HOSTILE]
    assert not write_page(tmp_path, {"warnings": []}).all("aside")


PROTOCOL = {
    "seed": 0,
    "prompt": HOSTILE,
    "exact": True,
    "nothing": None,
    "weights": (1.35, 8.0),
    "data": {"name": "coco", "sha256": "ab" * 32, "filter": {"least_pixels": 64, "kinds": ["photo", "drawing"]}},
    "networks": [{"name": "Inception", "sha256": "cd"}, {"name": "CLIP", "width": 768}],
    "stages": [{"steps": 5, "sampler": {"name": "ddim"}}, {"steps": 7, "sampler": {"name": "ddpm"}}],
}


def test_every_fact_of_the_protocol_is_in_a_table(tmp_path):
    outline = write_page(tmp_path, {"protocol": PROTOCOL, "versions": {"jax": "0.10.2"}, "of_later_days": [1, 2]})
    sections = outline.all("section")
    found = {}
    for section in sections:
        (heading,) = outline.all("h2", within=section)
        rows = outline.all("tr", within=section)
        found[heading.text] = [cells_of(outline, row) for row in rows]
    assert found == {
        "protocol": [
            ["seed", "0"],
            ["prompt", HOSTILE],
            ["exact", "yes"],
            ["nothing", "—"],
            ["weights", "1.35, 8"],
            ["stages › 1 › steps", "5"],
            ["stages › 1 › sampler › name", "ddim"],
            ["stages › 2 › steps", "7"],
            ["stages › 2 › sampler › name", "ddpm"],
            ["name", "sha256", "width"],
            ["Inception", "cd", "—"],
            ["CLIP", "—", "768"],
        ],
        "protocol: data": [
            ["name", "coco"],
            ["sha256", "ab" * 32],
            ["filter › least pixels", "64"],
            ["filter › kinds", "photo, drawing"],
        ],
        "versions": [["jax", "0.10.2"]],
        "of later days": [["of later days", "1, 2"]],
    }


def plain_values(value):
    if isinstance(value, dict):
        return [plain for part in value.values() for plain in plain_values(part)]
    if isinstance(value, list | tuple):
        return [plain for part in value for plain in plain_values(part)]
    return [] if value is None or isinstance(value, bool) else [value]


def test_no_value_of_a_report_that_was_read_back_is_lost(tmp_path):
    report = {"protocol": {**PROTOCOL, "deep": {"a": {"b": [[1, 2], {"c": [{"d": 41}]}]}}}, "machine": {"cores": 17}}
    write_report(tmp_path / "report.json", report)
    outline = write_page(tmp_path, json.loads((tmp_path / "report.json").read_text(encoding="utf-8")))
    text = " ".join(cell.text for cell in outline.elements if cell.tag == "td")
    for value in plain_values(report):
        assert (f"{value:g}" if isinstance(value, float) else str(value)) in text


def test_figures_are_in_the_page(tmp_path):
    file = tmp_path / "plot.png"
    file.write_bytes(png((9, 8, 7)))
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
    outline = write_page(tmp_path, {}, {HOSTILE: png((1, 2, 3)), "a file": file, "drawn": svg})
    images = outline.all("img")
    assert [image.attributes["alt"] for image in images] == [HOSTILE, "a file", "drawn"]
    assert [caption.text for caption in outline.all("figcaption")] == [HOSTILE, "a file", "drawn"]
    pixels = [np.asarray(image_of(image.attributes["src"]))[0, 0].tolist() for image in images[:2]]
    assert pixels == [[1, 2, 3], [9, 8, 7]]
    assert images[2].attributes["src"].startswith("data:image/svg+xml;base64,")
    with pytest.raises(UserError, match="'text'"):
        write_page(tmp_path, {}, {"text": b"not an image"})
    with pytest.raises(UserError, match=r"none\.png"):
        write_page(tmp_path, {}, {"none": tmp_path / "none.png"})


def test_the_table_is_that_of_the_slides_in_its_order(tmp_path):
    outline = write_page(tmp_path, {"table": [row.as_dict() for row in table_with()]})
    heading, *lines = lines_of(outline, class_="comparison")
    assert heading == ["Model", "COCO FID ↓", "What it is"]
    assert [" ".join(line[:2]) for line in lines][: len(SLIDE)] == SLIDE
    assert [float(line[1]) for line in lines[len(SLIDE) + 1 :]] == [14.43, 8.86, 8.06, 6.66]
    assert len(lines) == len(PUBLISHED) + 3


def test_our_row_is_marked_and_stands_in_its_group(tmp_path):
    for trained, before in ((True, "Make-A-Scene (Gafni et al., 2022)"), (False, "Imagen (Saharia et al., 2022)")):
        rows = [row.as_dict() for row in table_with(ours(name=HOSTILE, trained_on_coco=trained))]
        outline = write_page(tmp_path, {"table": json.loads(json.dumps(rows))})
        lines = lines_of(outline, class_="comparison")
        (index,) = [number for number, line in enumerate(lines) if line[0].startswith(HOSTILE)]
        assert lines[index - 1][0] == before and lines[index][1] == "21.43"
        assert [row.text[:5] for row in outline.all("tr", class_="ours")] == [HOSTILE[:5]]


@pytest.mark.parametrize(
    ("changed", "value", "facts"),
    [
        ({}, 21.431, ["Inception-v3 of 2015-12-05", "30,000", "COCO 2014 validation"]),
        ({"samples": 5000}, 21.431, ["5,000", "30,000"]),
        ({"distance": "Fréchet distance", "network": "EfficientNet-Lite0"}, None,
         ["not FID", "Fréchet distance 21.43", "EfficientNet-Lite0"]),
        ({"on_coco": False, "data": "OpenMoji"}, None, ["not COCO", "21.43", "OpenMoji"]),
    ],
)  # fmt: skip
def test_only_fid_on_coco_stands_in_the_column(changed, value, facts):
    (row,) = [row for row in table_with(ours(**changed)) if row.ours]
    assert row.value == value and all(fact in row.note for fact in facts)


def test_a_page_without_anything_is_a_page(tmp_path):
    outline = write_page(tmp_path, {})
    assert outline.all("h1")[0].text == "Evaluation" and not outline.all("table")


def test_equal_reports_give_equal_pages_and_a_missing_folder_is_named(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        write_page(tmp_path / folder, {"protocol": PROTOCOL}, {"x": png("red")})
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()
    with pytest.raises(UserError, match=r"none/report\.html"):
        write_page(tmp_path / "none", {})
