"""DrawBench from prompts to the page that shows two models side by side."""

import csv
import json
from dataclasses import replace

import pytest

from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols import drawbench_run
from imagen_jax.evaluation.protocols.sampled_images import StepBar
from imagen_jax.evaluation.reports.drawbench import DrawBenchPrompt
from imagen_jax.web.pairs import make_comparison
from tests.small_cascades import write_cascade

PROMPTS = [DrawBenchPrompt("Colors", "a violet cow"), DrawBenchPrompt("Counting", "four forks"),
           DrawBenchPrompt("Counting", "two <b>clocks</b>")]  # fmt: skip


pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawbench")
    steps = StepBar()
    cascade = load_cascade(write_cascade(folder / "cascade"), {}, 8, steps)
    for name, seed, beside in (("ours", 0, []), ("theirs", 1, [str(folder / "ours")])):
        report = drawbench_run.sample_drawbench(cascade, steps, PROMPTS, folder / name, seed, samples=2)
        drawbench_run.write_bench(folder / name, report, PROMPTS, name, beside)
    return folder, cascade, steps


def test_every_prompt_has_its_images_and_its_category_beside_them(sampled):
    folder, *_ = sampled
    assert len(list((folder / "ours" / "pictures").glob("*.png"))) == 6
    with (folder / "ours" / "pictures" / "prompts.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["Prompts", "Category"], *([one.prompt, one.category] for one in PROMPTS)]
    report = json.loads((folder / "ours" / "report.json").read_text())
    assert report["prompts"]["count"] == 3 and report["pictures"]["of_each_prompt"] == 2


def test_the_page_shows_both_models_and_runs_nothing_of_a_prompt(sampled):
    folder, *_ = sampled
    page = (folder / "theirs" / "report.html").read_text()
    assert page.count("data:image/webp") == 12
    assert "two &lt;b&gt;clocks&lt;/b&gt;" in page and "<b>clocks" not in page
    assert page.count("2 steps of ddim") >= 2, "the settings of both models"


def test_people_can_compare_the_samples(sampled):
    folder, *_ = sampled
    comparison = make_comparison(folder / "ours" / "pictures", folder / "theirs" / "pictures")
    assert len(comparison.pairs) == 6
    assert {pair.category for pair in comparison.pairs} == {"Colors", "Counting"}


def test_another_batch_size_finds_all_images(sampled):
    """Also where an earlier version wrote its batch size down."""
    folder, cascade, steps = sampled
    settings = folder / "ours" / "pictures" / "sampling.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "batch_size": 6}))
    before = {file: file.stat().st_mtime_ns for file in settings.parent.glob("*.png")}
    larger = replace(cascade, batch_size=16)
    drawbench_run.sample_drawbench(larger, steps, PROMPTS, folder / "ours", 0, samples=2)
    assert {file: file.stat().st_mtime_ns for file in settings.parent.glob("*.png")} == before


def test_other_prompts_are_refused_in_the_same_folder(sampled):
    folder, cascade, steps = sampled
    with pytest.raises(UserError, match="prompts_sha256"):
        drawbench_run.sample_drawbench(cascade, steps, PROMPTS[:2], folder / "ours", 0, samples=2)


def test_a_missing_folder_can_not_be_shown_beside(sampled):
    folder, cascade, steps = sampled
    report = drawbench_run.sample_drawbench(cascade, steps, PROMPTS, folder / "ours", 0, samples=2)
    with pytest.raises(UserError, match="--beside=nothing/here"):
        drawbench_run.write_bench(folder / "ours", report, PROMPTS, "ours", ["nothing/here"])
