"""A folder that fills with pictures: whatever it was cut at, it ends the same."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade.image_folder import FORMATS, PictureFolder
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.errors import UserError

WISHES = [ImageRequest(prompt, index) for prompt in ("a cat", "un café ☕", "日本語") for index in range(3)]


def pictures_of(batch):
    """A picture that no other request has."""
    seeds = [int(hashlib.sha256(f"{request.prompt} {request.index}".encode()).hexdigest()[:8], 16) for request in batch]
    return np.stack([np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8) for seed in seeds])


def fill(out, form="png", requests=WISHES, stop_after=None, **changed):
    options = {"seed": 3, "batch_size": 4, "settings": {"steps": 5}, **changed}
    folder = PictureFolder(out, requests, form=form, **options)
    missing = folder.missing()
    for batch in missing[:stop_after]:
        folder.write(batch, pictures_of(batch.requests), {"seed": "3"})
    if stop_after is None:
        folder.finish(3)
    return [batch.number for batch in missing]


def pictures_in(folder):
    return {file.name: file for file in folder.iterdir() if file.name not in ("grid.png", "sampling.json")}


def content_of(folder):
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("form", FORMATS)
def test_cut_at_any_batch_it_ends_the_same(tmp_path, form):
    assert fill(tmp_path / "whole", form) == [0, 1, 2]
    for stop in (0, 1, 2, 3):
        fill(tmp_path / f"{stop}", form, stop_after=stop)
        assert fill(tmp_path / f"{stop}", form) == [0, 1, 2][stop:]
        assert content_of(tmp_path / f"{stop}") == content_of(tmp_path / "whole")
    assert fill(tmp_path / "whole", form) == []


@pytest.mark.parametrize("form", ["png", "webp", "jpg"])
def test_each_file_holds_its_picture_and_what_it_is(tmp_path, form):
    fill(tmp_path, form)
    files = [file for file in tmp_path.iterdir() if file.suffix == f".{form}" and file.name != "grid.png"]
    assert len(files) == len(WISHES)
    for file in files:
        with Image.open(file) as image:
            said = image.text if form == "png" else json.loads(image.getexif()[0x010E])
            pixels = np.asarray(image.convert("RGB"))
        expected = pictures_of([ImageRequest(said["prompt"], int(said["index"]))])[0]
        assert said["seed"] == "3"
        if form != "jpg":
            np.testing.assert_array_equal(pixels, expected)
        else:
            assert np.abs(pixels.astype(int) - expected).mean() < 12


def test_an_array_of_all_pictures_is_in_order(tmp_path):
    fill(tmp_path, "npz")
    with np.load(tmp_path / "pictures.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], pictures_of(WISHES))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "pictures.npz", "sampling.json"]


def test_hosts_share_the_batches(tmp_path):
    folder = PictureFolder(tmp_path, WISHES, 0, 2, "png", {})
    shares = [folder.missing(share, 3) for share in range(3)]
    assert [[batch.number for batch in share] for share in shares] == [[0, 3], [1, 4], [2]]


def test_what_a_killed_program_was_writing_is_removed(tmp_path):
    fill(tmp_path / "whole")
    fill(tmp_path / "cut", stop_after=1)
    (tmp_path / "cut" / ".599.unfinished.a_cat.png").write_bytes(b"half")
    (tmp_path / "cut" / "notes.unfinished.txt").write_text("mine")
    fill(tmp_path / "cut")
    assert content_of(tmp_path / "cut") == content_of(tmp_path / "whole") | {"notes.unfinished.txt": b"mine"}


def test_a_batch_of_which_a_picture_is_gone_is_drawn_again(tmp_path):
    fill(tmp_path)
    before = content_of(tmp_path)
    gone = next(name for name in before if name.startswith("un_cafe") and name.endswith("-1.png"))
    os.remove(tmp_path / gone)
    assert fill(tmp_path) == [1]
    assert content_of(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "key"),
    [({"seed": 4}, "seed"), ({"settings": {"steps": 6}}, "steps"),
     ({"settings": {"steps": 5, "invert": "x"}}, "invert"), ({"form": "webp"}, "format")],
)  # fmt: skip
def test_pictures_of_other_settings_are_not_mixed(tmp_path, changed, key):
    fill(tmp_path)
    with pytest.raises(UserError, match=f"drawn with {key} .*choose another --out"):
        fill(tmp_path, **changed)


ORDERS = {
    "one": WISHES[:1],
    "some": WISHES[:4],
    "fewer samples": [request for request in WISHES if request.index < 2],
    "another order": WISHES[::-1],
    "all": WISHES,
}


@pytest.mark.parametrize("before", ORDERS)
@pytest.mark.parametrize("now", ORDERS)
def test_other_prompts_and_batch_sizes_go_on_in_the_same_folder(tmp_path, before, now):
    for form, size_before, size_now in (("png", 8, 8), ("webp", 1, 9), ("jpg", 4, 3)):
        out, lone = tmp_path / form, tmp_path / f"{form} alone"
        fill(out, form, ORDERS[before], batch_size=size_before)
        there = {name: (file.stat().st_mtime_ns, file.read_bytes()) for name, file in pictures_in(out).items()}
        batches = PictureFolder(out, ORDERS[now], 3, size_now, form, {"steps": 5}).missing()
        absent = set(ORDERS[now]) - set(ORDERS[before])
        drawn = [request for batch in batches for request in batch.requests]
        assert absent <= set(drawn) and len(set(drawn)) == len(drawn) < len(absent) + size_now
        assert all(len(batch.requests) <= size_now for batch in batches)

        fill(out, form, ORDERS[now], batch_size=size_now)
        fill(lone, form, ORDERS[now], batch_size=size_now)
        after = {name: (file.stat().st_mtime_ns, file.read_bytes()) for name, file in pictures_in(out).items()}
        assert after.items() >= there.items(), "what was there stays as it was"
        assert len(after) == len({*ORDERS[before], *ORDERS[now]})
        assert content_of(out).items() >= content_of(lone).items(), "grid and pictures are those of this run"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("settings", [{"batch_size": 4}, {"batch_size": 64}])
def test_a_folder_of_an_earlier_version_is_accepted(tmp_path, form, settings):
    fill(tmp_path, form)
    before = content_of(tmp_path)
    kept = json.loads(before["sampling.json"])
    kept.pop("pictures_sha256", None)
    (tmp_path / "sampling.json").write_text(json.dumps({**kept, **settings}))
    assert fill(tmp_path, form) == []
    assert content_of(tmp_path).keys() == before.keys()
    if form == "npz":
        with pytest.raises(UserError, match=r"other prompts than these 8 images.*choose another --out, where"):
            fill(tmp_path, form, WISHES[:8])


def test_a_folder_whose_overrides_have_old_names_is_continued(tmp_path):
    fill(tmp_path, stop_after=1, settings={"overrides": {"guide_at_once": [True]}})
    for other in ({"batched_guidance": [False]}, {"steps": [5]}):
        with pytest.raises(UserError, match="overrides"):
            fill(tmp_path, settings={"overrides": other})
    assert fill(tmp_path, settings={"overrides": {"batched_guidance": [True]}}) == [1, 2]


def test_an_array_takes_no_other_prompts_and_says_so(tmp_path):
    for stop in (1, None):
        out = tmp_path / f"{stop}"
        fill(out, "npz", stop_after=stop)
        before = content_of(out)
        for requests in (WISHES[:8], WISHES[::-1], [*WISHES, ImageRequest("one more")]):
            told = f"an npz of other prompts than these {len(requests)} images.* choose another --out, where"
            with pytest.raises(UserError, match=told):
                fill(out, "npz", requests)
        assert content_of(out) == before


def test_parts_of_an_array_are_finished_at_their_size_and_a_whole_one_has_none(tmp_path):
    fill(tmp_path, "npz", stop_after=1)
    with pytest.raises(UserError, match="set --batch_size=4 to finish it"):
        fill(tmp_path, "npz", batch_size=3)
    assert fill(tmp_path, "npz") == [1, 2]
    whole = content_of(tmp_path)
    assert fill(tmp_path, "npz", batch_size=3) == []
    assert content_of(tmp_path) == whole


def test_damaged_settings_are_a_sentence(tmp_path):
    fill(tmp_path)
    (tmp_path / "sampling.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        fill(tmp_path)


def test_two_equal_wishes_are_refused(tmp_path):
    with pytest.raises(UserError, match="given twice"):
        PictureFolder(tmp_path, [WISHES[0], WISHES[0]], 0, 2, "png", {})


@pytest.mark.parametrize("form", FORMATS)
def test_settings_of_a_start_that_drew_nothing_give_way_and_those_of_pictures_do_not(tmp_path, form):
    PictureFolder(tmp_path, WISHES, 3, 4, form, {"steps": 9})
    fill(tmp_path, form, stop_after=1)
    assert json.loads((tmp_path / "sampling.json").read_text())["steps"] == 5
    with pytest.raises(UserError, match="steps 5, and this run has 9"):
        PictureFolder(tmp_path, WISHES, 3, 4, form, {"steps": 9})
    fill(tmp_path, form)


def test_of_two_runs_with_other_settings_one_alone_draws(tmp_path):
    first = PictureFolder(tmp_path, WISHES, 3, 4, "png", {"steps": 5})
    second = PictureFolder(tmp_path, WISHES, 3, 4, "png", {"steps": 6})
    batch = second.missing()[0]
    second.write(batch, pictures_of(batch.requests), {})
    with pytest.raises(UserError, match="another run has begun to draw other pictures"):
        first.write(batch, pictures_of(batch.requests), {})


STAGES = {"stage_0": "base: 8 px, ddim", "settings": ["8 px, ddim"], "weights": ["abcd"]}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"stage_0": "moved: 8 px, ddim"}, None),
        ({"stage_0": "base: 8 px, heun", "settings": ["8 px, heun"]}, "settings"),
        ({"weights": ["ffff"]}, "weights"),
    ],
)
def test_stages_are_told_by_their_weights_and_not_by_their_folders(tmp_path, change, refused):
    fill(tmp_path, stop_after=1, settings=STAGES)
    if refused is None:
        fill(tmp_path, settings=STAGES | change)
        return
    with pytest.raises(UserError, match=f"with {refused} "):
        fill(tmp_path, settings=STAGES | change)


def test_a_folder_of_before_the_weights_were_noted_goes_on_by_the_names(tmp_path):
    fill(tmp_path, stop_after=1, settings={"stage_0": STAGES["stage_0"]})
    with pytest.raises(UserError, match="stage_0"):
        fill(tmp_path, settings=STAGES | {"stage_0": "moved: 8 px, ddim"})
    fill(tmp_path, settings=STAGES)


@pytest.mark.parametrize("form", ["png", "npz"])
@pytest.mark.parametrize("way", ["deleted", "replaced"])
def test_a_folder_that_goes_away_while_pictures_are_drawn_is_a_sentence(tmp_path, form, way):
    folder = PictureFolder(tmp_path / "out", [ImageRequest("a", 0), ImageRequest("b", 0)], 0, 1, form, {})
    first, second = folder.missing()
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    folder.write(first, pictures, {})
    shutil.rmtree(tmp_path / "out")
    if way == "replaced":
        (tmp_path / "out").mkdir()
    for go_on in (lambda: folder.write(second, pictures, {}), lambda: folder.finish(1)):
        with pytest.raises(UserError, match="was deleted, moved or replaced"):
            go_on()
    assert way == "deleted" or list((tmp_path / "out").iterdir()) == []
