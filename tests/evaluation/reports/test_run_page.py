"""The page of a run: its numbers, previews, incidents and settings, of runs of any age and in a bucket."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from configs import openmoji_classifier, own_images
from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.run_page import MAX_PREVIEWS, choose_evenly, in_hours, write_run_page
from imagen_jax.evaluation.reports.run_plots import MAX_POINTS, level_label, level_order, plot_run_figures, thin
from imagen_jax.evaluation.reports.run_settings import NO_DEFAULT, compare_with_defaults
from imagen_jax.training.monitoring.noise_levels import name_levels
from tests.evaluation.reports.html_outline import Outline, check_self_contained, image_of

HOSTILE = "</td><script>alert(1)</script>"


def log_line(step, **more):
    return {"step": step, "loss": 1 / step, "gradient_norm": 0.5, "skipped": 2.0, "images_per_second": 100.0 + step,
            "useful_seconds": 30.0 * step, "goodput": 0.9, "peak_memory_gib": 1.25, **more}  # fmt: skip


def levels(value):
    return dict.fromkeys(name_levels(), value)


def write_lines(path, lines):
    path.write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode())


def write_preview(workdir, step, colour="white"):
    (workdir / "previews").mkdir(exist_ok=True, parents=True)
    with (workdir / "previews" / f"{step:07d}.png").open("wb") as file:
        Image.new("RGB", (40, 20), colour).save(file, "PNG")


def write_run(workdir, lines, config=None):
    workdir.mkdir(exist_ok=True, parents=True)
    content = config or own_images.get_config("base,smoke").to_dict()
    (workdir / "config.json").write_bytes(json.dumps(content | {"fingerprints": {"data_set": "ab12"}}).encode())
    write_lines(workdir / "metrics.jsonl", lines)


def read_page(path):
    outline = Outline(path.read_text(encoding="utf-8"))
    check_self_contained(outline)
    return outline


def headings(outline):
    return [heading.text for heading in outline.all("h3")]


def cells(outline, section):
    (section,) = outline.all("section", id=section)
    return [
        [cell.text for cell in outline.elements if cell.tag in {"th", "td"} and row in cell.above]
        for row in outline.all("tr", within=section)
    ]


def test_a_run_has_its_numbers_and_plots(tmp_path):
    config = own_images.get_config("base,smoke").to_dict()
    config["training"]["steps"] = 400
    write_run(tmp_path / "base", [log_line(step, learning_rate=0.1, **levels(0.2)) for step in (50, 100, 200)], config)
    assert write_run_page(tmp_path / "base") == tmp_path / "base" / "run.html"
    outline = read_page(tmp_path / "base" / "run.html")
    (cards,) = outline.all("ul", class_="cards")
    assert [card.text for card in outline.all("li", within=cards)] == [
        "step 200 50% of 400",
        "loss 0.005 of the last log line",
        "images per second 200 median of all log lines",
        "time in steps 100 min 90% of the wall time",
        "peak memory 1.2 GiB of process 0, on the host",
        "incidents 0 2 skipped steps",
    ]
    plots = ["Loss", "Loss by noise level", "Learning rate", "Images per second", "Gradient norm"]
    assert headings(outline)[: len(plots)] == plots
    images = outline.all("img")
    assert len(images) == len(plots) and all("image/svg+xml" in image.attributes["src"] for image in images)


def test_an_older_run_lacks_what_its_log_lacks(tmp_path):
    write_run(tmp_path, [{"step": 10, "loss": 0.5}, {"step": 20, "loss": float("nan")}])
    outline = read_page(write_run_page(tmp_path))
    assert "Loss" in headings(outline) and "Loss by noise level" not in headings(outline)
    (section,) = outline.all("section", id="plots")
    assert "no loss by noise level" in section.text


def test_a_run_that_has_just_begun_and_a_classifier_have_pages(tmp_path):
    write_run(tmp_path / "new", [])
    (section,) = read_page(write_run_page(tmp_path / "new")).all("section", id="plots")
    assert "no lines yet" in section.text
    classifier = openmoji_classifier.get_config(",smoke").to_dict()
    write_run(tmp_path / "classifier", [{"step": 1, "loss": 2.0, "learning_rate": 0.1}], classifier)
    outline = read_page(write_run_page(tmp_path / "classifier", tmp_path / "page.html"))
    assert {"Loss", "Learning rate", "classifier"} <= set(headings(outline))
    assert not (tmp_path / "classifier" / "run.html").exists()


def test_a_page_says_whether_the_run_may_continue(tmp_path):
    config = own_images.get_config("base,smoke").to_dict()
    config["training"]["steps"] = 100
    for step, is_open in ((50, True), (100, False)):
        write_run(tmp_path, [log_line(step)], config)
        assert ("may continue" in read_text_again(tmp_path)) == is_open


def test_the_last_preview_shows_first_and_each_has_a_button(tmp_path):
    write_run(tmp_path, [log_line(1)])
    for step, colour in ((100, "red"), (200, "blue")):
        write_preview(tmp_path, step, colour)
    (tmp_path / "previews" / "0000300.png").write_bytes(b"damaged")
    outline = read_page(write_run_page(tmp_path))
    buttons = outline.all("input", type="radio")
    assert [(button.attributes["id"], "checked" in button.attributes) for button in buttons] == [
        ("step-100", False), ("step-200", True)
    ]  # fmt: skip
    assert {label.attributes["for"]: label.text for label in outline.all("label")} == {
        "step-100": "100", "step-200": "200"
    }  # fmt: skip
    pixel = image_of(outline.all("img", alt="Preview of step 200")[0].attributes["src"]).convert("RGB").getpixel((5, 5))
    assert pixel[2] > 200 and pixel[0] < 50
    (warning,) = outline.all("li", within=outline.all("aside")[0])
    assert "0000300.png" in warning.text


def test_a_preview_that_is_sampled_again_is_read_again(tmp_path):
    write_run(tmp_path, [log_line(1)])
    write_preview(tmp_path, 1, "red")
    before = write_run_page(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "previews" / "0000001.png").unlink()
    write_preview(tmp_path, 1, "blue")
    addresses = [Outline(text).all("img")[0].attributes["src"] for text in (before, read_text_again(tmp_path))]
    assert addresses[0] != addresses[1]


def read_text_again(workdir):
    return write_run_page(workdir).read_text(encoding="utf-8")


def test_of_many_previews_some_are_shown():
    assert choose_evenly(range(5), 5) == [0, 1, 2, 3, 4]
    chosen = choose_evenly(range(1000), MAX_PREVIEWS)
    assert len(chosen) == len(set(chosen)) == MAX_PREVIEWS and chosen[0] == 0 and chosen[-1] == 999
    assert np.ptp(np.diff(chosen)) <= 1


def test_incidents_of_all_processes_are_in_order(tmp_path):
    write_run(tmp_path, [log_line(100)])
    skipped = {"step": 70, "kind": "skipped", "loss": "nan", "gradient_norm": "inf", "in_a_row": 1.0}
    spike = {"step": 60, "kind": "spike", "loss": 9.5, "gradient_norm": 3.0, "median": 0.1, "distance": 12.0}
    write_lines(tmp_path / "incidents.jsonl", [spike | {"keys": [HOSTILE, "b", "c", "d"]}, skipped | {"keys": ["x"]}])
    write_lines(tmp_path / "incidents.1.jsonl", [skipped | {"keys": ["y"]}])
    (tmp_path / "incidents").mkdir()
    for step, back_to in ((80, 50), (95, None)):
        dump = {"skipped_in_a_row": 10, "rewound_to": back_to, "steps": []}
        (tmp_path / "incidents" / f"{step:07d}.json").write_text(json.dumps(dump))
    outline = read_page(write_run_page(tmp_path))
    _, *rows = cells(outline, "incidents")
    assert [row[:2] for row in rows] == [
        ["60", "spike"], ["70", "skipped"], ["70", "skipped"], ["80", "rewind"], ["95", "stop"]
    ]  # fmt: skip
    assert HOSTILE in rows[0][2] and "4 images" in rows[0][2] and "distance 12" in rows[0][2]
    assert {rows[1][2].startswith("process 1"), rows[2][2].startswith("process 1")} == {True, False}
    assert "step 50" in rows[3][2]


def test_evaluations_are_plotted_and_listed(tmp_path):
    write_run(tmp_path, [log_line(100)])
    lines = [
        {"step": step, "caption_recall_at_10": 0.25, "chance": 0.01, "frechet_distance": 60.5} for step in (50, 99)
    ]
    write_lines(tmp_path / "evaluations.jsonl", lines)
    outline = read_page(write_run_page(tmp_path))
    assert cells(outline, "evaluations") == [
        ["step", "caption recall at 10", "chance", "frechet distance"],
        ["50", "0.25", "0.01", "60.5"],
        ["99", "0.25", "0.01", "60.5"],
    ]
    assert any("recall" in title for title in headings(outline))


def test_settings_are_compared_with_their_defaults():
    config = own_images.get_config("base").to_dict()
    config["training"].update({"ema_decay": 0.5, "weighting": "uniform"})
    config["stage"]["prediction"] = "v"
    config["network"].update({"name": "efficient_unet", "heads": 3, "dropout": 0.0})
    config["data"]["weights"] = []
    sections = compare_with_defaults(config)
    given = {f"{part.title}.{one.name}": (one.value, one.default) for part in sections for one in part.set}
    unchanged = {f"{part.title}.{one.name}" for part in sections for one in part.unchanged}
    assert given["training.ema_decay"] == ("0.5", "0.9999") and given["stage.prediction"] == ("v", "eps")
    assert given["training.batch_size"][1] == NO_DEFAULT
    assert given["network.heads"] == ("3", "8"), "the module's own default"
    assert {"training.weighting", "network.dropout", ".seed"} <= unchanged
    assert "data.weights" in unchanged, "a saved list equals a tuple"
    assert given.keys() | unchanged == {".seed"} | {
        f"{section}.{key}" for section, values in config.items() if isinstance(values, dict) for key in values
    }


def test_the_page_lists_the_settings(tmp_path):
    config = own_images.get_config("base,smoke").to_dict()
    config["data"]["options"] = {"folder": HOSTILE}
    write_run(tmp_path, [], config)
    rows = cells(read_page(write_run_page(tmp_path)), "settings")
    assert ["options", f"folder={HOSTILE}", "{}"] in rows and ["data set", "ab12"] in rows


def test_a_folder_that_is_no_workdir_is_an_error(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        write_run_page(tmp_path)
    write_run(tmp_path, [])
    (tmp_path / "metrics.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        write_run_page(tmp_path)


@pytest.mark.thorough
def test_a_run_in_a_bucket_has_a_page(bucket, tmp_path):
    workdir = bucket / "runs" / "base"
    write_run(workdir, [log_line(1, **levels(0.1))])
    write_lines(workdir / "incidents.jsonl", [{"step": 1, "kind": "spike", "keys": []}])
    write_preview(workdir, 1)
    outline = read_page(write_run_page(workdir))
    assert outline.all("img", alt="Preview of step 1") and len(cells(outline, "incidents")) == 2
    assert (workdir / "run.html").exists()
    write_run_page(workdir, tmp_path / "here.html")
    assert (tmp_path / "here.html").stat().st_size > 10_000


def test_noise_levels_are_ordered_from_noisy_to_clean():
    assert sorted(set(name_levels()), key=level_order) == name_levels()
    assert [level_label(name) for name in name_levels()][:2] == ["below −6", "−6 to −4"]


def test_long_curves_keep_their_extremes():
    values = np.sin(np.arange(100_000) / 1000)
    values[777], values[50_001], values[3] = 40.0, -30.0, np.nan
    steps, kept = thin(np.arange(100_000.0), values)
    assert len(kept) <= MAX_POINTS and kept.max() == 40 and kept.min() == -30 and steps[np.argmax(kept)] == 777
    assert np.all(np.diff(steps) > 0)


def test_equal_runs_have_equal_plots_and_values_that_are_not_finite_are_left_out():
    lines = [log_line(step, **levels(0.0 if step == 3 else 1.0)) for step in range(1, 60)]
    assert plot_run_figures(lines, [5], []) == plot_run_figures(lines, [5], [])
    assert plot_run_figures([{"step": 1, "loss": float("nan"), "gradient_norm": "x"}], [], []) == []


def test_durations_are_short():
    shown = {5.0: "5 s", 119.0: "119 s", 600.0: "10 min", 7200.0: "2.0 h", 250_000.0: "69.4 h"}
    assert {seconds: in_hours(seconds) for seconds in shown} == shown
