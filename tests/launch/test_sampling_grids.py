"""The grids of settings: each setting is one that the bundled base takes, and each cell is in its place."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from imagen_jax.cascade.plans import plan_cascade

CHECKOUT = Path(__file__).parents[2]


def load_script():
    place = importlib.util.spec_from_file_location("sampling_grids", CHECKOUT / "launch" / "sampling_grids.py")
    script = importlib.util.module_from_spec(place)
    place.loader.exec_module(script)
    return script


GRIDS = load_script()


@pytest.mark.parametrize("name", GRIDS.GRIDS)
def test_the_bundled_base_takes_the_settings_and_no_two_cells_of_a_prompt_are_the_same(name):
    rows, columns = GRIDS.GRIDS[name]
    cells = {}
    for row in rows:
        for column in columns:
            (stage,) = plan_cascade([CHECKOUT / GRIDS.BUNDLED], row.settings | column.settings).sampling
            settings = stage.settings
            threshold = settings.threshold.__qualname__
            cells[row.prompt, settings.rule.name, settings.steps, settings.guidance_weight, threshold] = column
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
