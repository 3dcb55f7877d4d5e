"""The pictures of the gallery: each is made by a command of its page, and the grids of settings are right."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from imagen_jax.cascade.plans import plan_cascade

CHECKOUT = Path(__file__).parents[2]


def load_script(name):
    place = importlib.util.spec_from_file_location(name, CHECKOUT / "launch" / f"{name}.py")
    script = importlib.util.module_from_spec(place)
    place.loader.exec_module(script)
    return script


GRIDS, GALLERY = load_script("sampling_grids"), load_script("gallery")


@pytest.mark.parametrize("name", GRIDS.GRIDS)
def test_the_bundled_base_takes_the_settings_and_no_two_cells_of_a_prompt_are_the_same(name):
    rows, columns = GRIDS.GRIDS[name]
    cells = {}
    for row in rows:
        for column in columns:
            (stage,) = plan_cascade([CHECKOUT / GRIDS.BUNDLED], row.settings | column.settings).sampling
            settings = stage.settings
            guided = settings.guidance_weight, settings.interval, settings.threshold.__qualname__
            cells[row.prompt, settings.rule.name, settings.steps, *guided] = column
    assert len(cells) == len(rows) * len(columns)


def test_each_cell_is_in_its_place(monkeypatch):
    rows = [GRIDS.Row("a", "a", {}), GRIDS.Row("b", "b", {}), GRIDS.Row("c", "c", {"steps": 4})]
    columns = [GRIDS.Column("one", {"guidance": 1.0}), GRIDS.Column("two", {"guidance": 2.0})]
    colours = {"a": 10, "b": 20, "c": 30}
    batches = []

    class FakeCascade:
        def sample(self, prompts, **settings):
            batches.append((prompts, settings))
            return [Image.new("RGB", (64, 64), (colours[one], int(100 * settings["guidance"]), 0)) for one in prompts]

    monkeypatch.setattr(GRIDS, "load_cascade", lambda stages: FakeCascade())
    sheet = GRIDS.draw_grid(GRIDS.sample_grid("base", rows, columns), rows, columns)
    assert batches[:2] == [(["a", "b"], {"guidance": 1.0}), (["c"], {"steps": 4, "guidance": 1.0})]
    for number, row in enumerate(rows):
        for column in range(2):
            position = (
                GRIDS.LEFT + column * (GRIDS.CELL + GRIDS.GAP) + 5,
                GRIDS.TOP + number * (GRIDS.CELL + GRIDS.GAP) + 5,
            )
            assert sheet.getpixel(position) == (colours[row.prompt], 100 * (column + 1), 0)


def test_a_command_of_the_gallery_makes_each_of_its_pictures():
    made = {
        GALLERY.name_of(result)
        for _, text in GALLERY.read_blocks(GALLERY.PAGE)
        for result in GALLERY.list_results(text)
    }
    shown = set(re.findall(r"figures/gallery/(\w+)\.png", GALLERY.PAGE.read_text("utf-8")))
    assert shown == made == {figure.stem for figure in GALLERY.FIGURES.glob("*.png")}


def test_a_result_is_made_smaller_for_the_page(monkeypatch, tmp_path):
    monkeypatch.setattr(GALLERY, "FIGURES", tmp_path / "figures")
    (tmp_path / "heart").mkdir()
    Image.new("RGB", (1600, 400), "red").save(tmp_path / "heart" / "grid.png")
    GALLERY.save_figure(tmp_path / "heart" / "grid.png")
    with Image.open(tmp_path / "figures" / "heart.png") as figure:
        assert figure.size == (GALLERY.MAX_WIDTH, 200) and figure.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_blocks_are_run_in_the_checkout_with_this_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(GALLERY, "CHECKOUT", tmp_path)
    GALLERY.run("bash", "command -v python > where.txt")
    GALLERY.run("python", "open('second.txt', 'w').write('x')")
    assert (tmp_path / "where.txt").read_text().startswith(sys.exec_prefix) and (tmp_path / "second.txt").exists()
