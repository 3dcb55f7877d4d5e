"""A folder that fills with images: whatever it was cut at, it ends the same."""

import hashlib
import itertools
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade.image_folder import FORMATS, PictureFolder
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.errors import UserError
from tests.tiers import thorough_rows_except

REQUESTS = [ImageRequest(prompt, index) for prompt in ("a cat", "un café ☕", "日本語") for index in range(3)]


def images_of(batch):
    """An image that no other request has."""
    seeds = [int(hashlib.sha256(f"{request.prompt} {request.index}".encode()).hexdigest()[:8], 16) for request in batch]
    return np.stack([np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8) for seed in seeds])


def fill(out, form="png", requests=REQUESTS, stop_after=None, **changed):
    options = {"seed": 3, "batch_size": 4, "settings": {"steps": 5}, **changed}
    folder = PictureFolder(out, requests, form=form, **options)
    missing = folder.missing()
    for batch in missing[:stop_after]:
        folder.write(batch, images_of(batch.requests), {"seed": "3"})
    if stop_after is None:
        folder.finish(3)
    return [batch.number for batch in missing]


def images_in(folder):
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
def test_each_file_contains_its_image_and_metadata(tmp_path, form):
    fill(tmp_path, form)
    files = [file for file in tmp_path.iterdir() if file.suffix == f".{form}" and file.name != "grid.png"]
    assert len(files) == len(REQUESTS)
    for file in files:
        with Image.open(file) as image:
            about = image.text if form == "png" else json.loads(image.getexif()[0x010E])
            pixels = np.asarray(image.convert("RGB"))
        expected = images_of([ImageRequest(about["prompt"], int(about["index"]))])[0]
        assert about["seed"] == "3"
        if form != "jpg":
            np.testing.assert_array_equal(pixels, expected)
        else:
            assert np.abs(pixels.astype(int) - expected).mean() < 12


def test_an_array_of_all_images_is_in_order(tmp_path):
    fill(tmp_path, "npz")
    with np.load(tmp_path / "pictures.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], images_of(REQUESTS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "pictures.npz", "sampling.json"]


def test_hosts_share_the_batches(tmp_path):
    folder = PictureFolder(tmp_path, REQUESTS, 0, 2, "png", {})
    shares = [folder.missing(share, 3) for share in range(3)]
    assert [[batch.number for batch in share] for share in shares] == [[0, 3], [1, 4], [2]]


def test_what_a_killed_program_was_writing_is_removed(tmp_path):
    fill(tmp_path / "whole")
    fill(tmp_path / "cut", stop_after=1)
    (tmp_path / "cut" / ".599.unfinished.a_cat.png").write_bytes(b"half")
    (tmp_path / "cut" / "notes.unfinished.txt").write_text("mine")
    fill(tmp_path / "cut")
    assert content_of(tmp_path / "cut") == content_of(tmp_path / "whole") | {"notes.unfinished.txt": b"mine"}


def test_a_batch_of_which_an_image_is_gone_is_sampled_again(tmp_path):
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
def test_images_of_other_settings_are_not_mixed(tmp_path, changed, key):
    fill(tmp_path)
    with pytest.raises(UserError, match=f" {key} .*--out"):
        fill(tmp_path, **changed)


ORDERS = {
    "one": REQUESTS[:1],
    "some": REQUESTS[:4],
    "fewer samples": [request for request in REQUESTS if request.index < 2],
    "another order": REQUESTS[::-1],
    "all": REQUESTS,
}


@pytest.mark.parametrize(
    ("now", "before"),
    thorough_rows_except(
        [("all", "some"), ("some", "all"), ("another order", "fewer samples"), ("one", "another order")],
        itertools.product(ORDERS, ORDERS),
    ),
)
def test_other_prompts_and_batch_sizes_continue_in_the_same_folder(tmp_path, before, now):
    for form, size_before, size_now in (("png", 8, 8), ("webp", 1, 9), ("jpg", 4, 3)):
        out, lone = tmp_path / form, tmp_path / f"{form} alone"
        fill(out, form, ORDERS[before], batch_size=size_before)
        there = {name: (file.stat().st_mtime_ns, file.read_bytes()) for name, file in images_in(out).items()}
        batches = PictureFolder(out, ORDERS[now], 3, size_now, form, {"steps": 5}).missing()
        absent = set(ORDERS[now]) - set(ORDERS[before])
        sampled = [request for batch in batches for request in batch.requests]
        assert absent <= set(sampled) and len(set(sampled)) == len(sampled) < len(absent) + size_now
        assert all(len(batch.requests) <= size_now for batch in batches)

        fill(out, form, ORDERS[now], batch_size=size_now)
        fill(lone, form, ORDERS[now], batch_size=size_now)
        after = {name: (file.stat().st_mtime_ns, file.read_bytes()) for name, file in images_in(out).items()}
        assert after.items() >= there.items(), "what was there stays as it was"
        assert len(after) == len({*ORDERS[before], *ORDERS[now]})
        assert content_of(out).items() >= content_of(lone).items(), "grid and images are those of this run"


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
        with pytest.raises(UserError, match=r"npz.* 8 .*--out"):
            fill(tmp_path, form, REQUESTS[:8])


def test_a_folder_whose_overrides_have_old_names_is_continued(tmp_path):
    fill(tmp_path, stop_after=1, settings={"overrides": {"guide_at_once": [True]}})
    for other in ({"batched_guidance": [False]}, {"steps": [5]}):
        with pytest.raises(UserError, match="overrides"):
            fill(tmp_path, settings={"overrides": other})
    assert fill(tmp_path, settings={"overrides": {"batched_guidance": [True]}}) == [1, 2]


def test_an_array_takes_no_other_prompts_and_raises(tmp_path):
    for stop in (1, None):
        out = tmp_path / f"{stop}"
        fill(out, "npz", stop_after=stop)
        before = content_of(out)
        for requests in (REQUESTS[:8], REQUESTS[::-1], [*REQUESTS, ImageRequest("one more")]):
            with pytest.raises(UserError, match=f"npz.* {len(requests)} .*--out"):
                fill(out, "npz", requests)
        assert content_of(out) == before


def test_parts_of_an_array_are_finished_at_their_size_and_a_whole_one_has_none(tmp_path):
    fill(tmp_path, "npz", stop_after=1)
    with pytest.raises(UserError, match="--batch_size=4"):
        fill(tmp_path, "npz", batch_size=3)
    assert fill(tmp_path, "npz") == [1, 2]
    whole = content_of(tmp_path)
    assert fill(tmp_path, "npz", batch_size=3) == []
    assert content_of(tmp_path) == whole


def test_damaged_settings_are_a_sentence(tmp_path):
    fill(tmp_path)
    (tmp_path / "sampling.json").write_text("{")
    with pytest.raises(UserError, match=r"sampling.json"):
        fill(tmp_path)


def test_two_equal_requests_are_refused(tmp_path):
    with pytest.raises(UserError, match="--samples_per_prompt"):
        PictureFolder(tmp_path, [REQUESTS[0], REQUESTS[0]], 0, 2, "png", {})


@pytest.mark.parametrize("form", FORMATS)
def test_settings_of_a_start_that_sampled_nothing_give_way_and_those_of_images_do_not(tmp_path, form):
    PictureFolder(tmp_path, REQUESTS, 3, 4, form, {"steps": 9})
    fill(tmp_path, form, stop_after=1)
    assert json.loads((tmp_path / "sampling.json").read_text())["steps"] == 5
    with pytest.raises(UserError, match=r"steps 5.* 9"):
        PictureFolder(tmp_path, REQUESTS, 3, 4, form, {"steps": 9})
    fill(tmp_path, form)


def test_of_two_runs_with_other_settings_one_alone_samples(tmp_path):
    first = PictureFolder(tmp_path, REQUESTS, 3, 4, "png", {"steps": 5})
    second = PictureFolder(tmp_path, REQUESTS, 3, 4, "png", {"steps": 6})
    batch = second.missing()[0]
    second.write(batch, images_of(batch.requests), {})
    with pytest.raises(UserError, match="--out"):
        first.write(batch, images_of(batch.requests), {})


STAGES = {"stage_0": "base: 8 px, ddim", "settings": ["8 px, ddim"], "weights": ["abcd"]}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"stage_0": "moved: 8 px, ddim"}, None),
        ({"stage_0": "base: 8 px, heun", "settings": ["8 px, heun"]}, "settings"),
        ({"weights": ["ffff"]}, "weights"),
    ],
)
def test_stages_are_identified_by_their_weights_and_not_by_their_folders(tmp_path, change, refused):
    fill(tmp_path, stop_after=1, settings=STAGES)
    if refused is None:
        fill(tmp_path, settings=STAGES | change)
        return
    with pytest.raises(UserError, match=f" {refused} "):
        fill(tmp_path, settings=STAGES | change)


def test_a_folder_of_before_the_weights_were_stored_continues_by_the_names(tmp_path):
    fill(tmp_path, stop_after=1, settings={"stage_0": STAGES["stage_0"]})
    with pytest.raises(UserError, match="stage_0"):
        fill(tmp_path, settings=STAGES | {"stage_0": "moved: 8 px, ddim"})
    fill(tmp_path, settings=STAGES)


@pytest.mark.parametrize("form", ["png", "npz"])
@pytest.mark.parametrize("way", ["deleted", "replaced"])
def test_a_folder_that_goes_away_while_images_are_sampled_is_a_sentence(tmp_path, form, way):
    folder = PictureFolder(tmp_path / "out", [ImageRequest("a", 0), ImageRequest("b", 0)], 0, 1, form, {})
    first, second = folder.missing()
    images = np.zeros((1, 4, 4, 3), np.uint8)
    folder.write(first, images, {})
    shutil.rmtree(tmp_path / "out")
    if way == "replaced":
        (tmp_path / "out").mkdir()
    for continue_run in (lambda: folder.write(second, images, {}), lambda: folder.finish(1)):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / "out"))):
            continue_run()
    assert way == "deleted" or list((tmp_path / "out").iterdir()) == []
