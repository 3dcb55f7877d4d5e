"""The page's server over HTTP, as a browser uses it, with a small untrained cascade."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.image_files import read_png_metadata
from imagen_jax.pretrained import attribution_of, find_stages
from imagen_jax.web.app import make_app
from imagen_jax.web.jobs import Jobs
from imagen_jax.web.listening import keep_out
from imagen_jax.web.orders import Limits
from tests.small_cascades import write_cascade
from tests.web.asking import Served, data_url, pixels_of
from tests.web.served import serving

LIMITS = Limits(steps=20, waiting=2, body=100_000, kept=3)
STAGES = [{"steps": 2, "guidance": 2.0}, {"steps": 2, "guidance": 1.0}]


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return load_cascade(write_cascade(tmp_path_factory.mktemp("cascade")), batch_size=1)


@pytest.fixture(scope="module")
def served(cascade):
    with serving(make_app(Jobs(cascade, LIMITS), LIMITS, keep_out("127.0.0.1"))) as port:
        yield Served(port, STAGES)


BLACK = data_url(np.zeros((4, 4, 3), np.uint8))


def test_the_page_and_what_it_loads_are_there(served):
    for path, words in (("", b"<form"), ("page.js", b"EventSource"), ("page.css", b"#history")):
        status, body = served.ask(path)
        assert status == 200 and words in body
    facts = json.loads(served.ask("stages")[1])
    assert [stage["resolution"] for stage in facts["stages"]] == [8, 16] and "unipc" in facts["samplers"]
    assert facts["max_steps"] == 20 and facts["attribution"] == ""


def test_the_bundled_cascade_has_the_attribution_of_its_drawings():
    for stage in find_stages("openmoji"):
        assert "CC BY-SA 4.0" in attribution_of([str(stage)])


def test_an_order_becomes_an_image_and_stays_in_the_history(served, cascade, tmp_path):
    status, reply = served.order(seed=4)
    assert status == 202
    events = served.follow(reply["id"])
    assert events[-1]["state"] == "done" and events[-1]["step"] == events[-1]["steps"] == 4
    previews = [event["preview"] for event in events if event.get("preview")]
    assert previews and all(pixels_of(base64.b64decode(one.partition(",")[2])).shape[2] == 3 for one in previews)
    status, image = served.ask(events[-1]["picture"])
    expected = cascade.sample("panda", seed=4, steps=[2, 2], guidance=[2.0, 1.0])[0]
    np.testing.assert_array_equal(pixels_of(image), np.asarray(expected))
    (tmp_path / "image.png").write_bytes(image)
    metadata = read_png_metadata(tmp_path / "image.png")
    assert metadata["prompt"] == "panda" and metadata["seed"] == "4" and "2 steps" in metadata["stage_0"]
    history = json.loads(served.ask("history")[1])
    assert history[0]["settings"]["seed"] == 4
    assert served.follow(reply["id"])[-1]["state"] == "done", "a finished job can be followed again"


def test_a_prompt_that_is_cut_off_is_told_with_its_image_each_time(served, cascade):
    limit = min(one.stage.text_length for one in cascade.trained)
    for _ in range(2):
        last = served.follow(served.order(prompt="apple " * (limit + 1))[1]["id"])[-1]
        assert last["state"] == "done" and f"{limit} are read" in last["warning"]
    assert served.follow(served.order(prompt="apple")[1]["id"])[-1]["warning"] == ""


@pytest.mark.thorough
def test_an_edit_keeps_what_is_not_painted(served):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[:, 8:] = 255
    _, reply = served.order(image=data_url(image), mask=data_url(mask), resample=2, strength=1)
    last = served.follow(reply["id"])[-1]
    assert last["state"] == "done" and last["settings"]["edited"] == "mask"
    sampled = pixels_of(served.ask(last["picture"])[1])
    assert np.abs(sampled[:, :8] - image[:, :8]).max() <= 1 and np.abs(sampled[:, 8:] - image[:, 8:]).mean() > 5


@pytest.mark.thorough
def test_a_photo_taken_sideways_is_edited_upright_and_a_16_bit_mask_counts(served):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the first stored row is the right side, the first stored column the top
    photo, mask = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(photo, format="PNG", exif=exif)
    levels = np.zeros((16, 16), np.uint16)
    levels[:, :8], levels[:, 8:] = 20_000, 65_535
    Image.fromarray(levels).save(mask, format="PNG")
    photo, mask = ("data:image/png;base64," + base64.b64encode(one.getvalue()).decode() for one in (photo, mask))
    _, reply = served.order(image=photo, mask=mask, strength=1)
    sampled = pixels_of(served.ask(served.follow(reply["id"])[-1]["picture"])[1])
    assert np.abs(sampled[:, :8] - image[:, :8]).max() <= 1 and np.abs(sampled[:, 8:] - image[:, 8:]).mean() > 5


@pytest.mark.thorough
def test_orders_that_differ_in_their_images_alone_are_followed_while_they_wait(served):
    images = [np.full((16, 16, 3), shade, np.uint8) for shade in (0, 90, 180)]
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[:, 8:] = 255
    # The settings are those of the edit above, so that no program is compiled.
    same = {"mask": data_url(mask), "resample": 2, "strength": 1}
    orders = [{"image": data_url(image), **same} for image in images]
    names = [served.order(**fields)[1]["id"] for fields in orders]
    assert [served.follow(name)[-1]["state"] for name in reversed(names)] == ["done"] * 3


@pytest.mark.thorough
def test_the_queue_and_the_history_are_bounded(served):
    answers = [served.order(seed=number, stages=[{"steps": 20, "guidance": 2.0}] * 2) for number in range(6)]
    accepted = [reply["id"] for status, reply in answers if status == 202]
    refused = [reply["problem"] for status, reply in answers if status == 429]
    assert 2 <= len(accepted) <= 3 and f"{LIMITS.waiting} orders" in refused[0]
    assert served.ask(f"jobs/{accepted[-1]}", method="DELETE")[0] == 204
    states = [served.follow(name)[-1]["state"] for name in accepted]
    assert states == ["done"] * (len(accepted) - 1) + ["cancelled"]
    for number in range(5):
        served.follow(served.order(seed=number)[1]["id"])
    assert len(json.loads(served.ask("history")[1])) <= LIMITS.kept


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ({"prompt": ""}, ["prompt"]),
        ({"prompt": "x" * 2001}, ["prompt", "2000"]),
        ({"prompt": 3}, ["prompt", "2000"]),
        ({"seed": -1}, ["seed", "-1", "4294967295"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
        ({"seed": True}, ["seed", "True"]),
        ({"stages": [{"steps": 21}, {"steps": 1}]}, ["steps", "20", "21"]),
        ({"stages": [{"steps": 2}]}, ["stages", "2"]),
        ({"stages": [{"steps": 2}, {}]}, ["steps", "1 of 2"]),
        ({"stages": [{"sampler": "euler"}] * 2}, ["sampler", "ddim", "'euler'"]),
        ({"stages": [{"guidance": 1e9}] * 2}, ["guidance", "-100", "100"]),
        ({"stages": "many"}, ["stages", "2"]),
        ({"image": "data:image/png;base64,AAAA"}, ["image"]),
        ({"image": "https://somewhere/image.png"}, ["image"]),
        ({"image": BLACK, "mask": data_url(np.zeros((5, 4, 3), np.uint8))}, ["mask", "4×5", "4×4"]),
        ({"image": BLACK, "strength": 0}, ["strength", "0.01", "1"]),
        ({"mask": BLACK}, ["mask", "image"]),
        ({"strength": 0.5}, ["strength", "image"]),
        ({"resample": 2}, ["resample", "image"]),
        ({"how": "variation", "image": BLACK}, ["how", "decoder"]),
        ({"how": "larger", "image": BLACK}, ["how", "variation", "'larger'"]),
        ({"share": 0.2}, ["share", "how"]),
        ({"image": data_url(np.zeros((5000, 2, 3), np.uint8))}, ["image", "2×5000", "4096"]),
    ],
)  # fmt: skip
def test_invalid_orders_are_refused_and_the_field_is_named(served, fields, facts):
    status, reply = served.order(**fields)
    assert status == 400 and all(fact in reply["problem"] for fact in facts)


def test_requests_that_are_not_orders_are_refused(served):
    assert served.ask("orders", b"{")[0] == 400
    assert served.ask("orders", b"[" * 50_000)[0] == 400
    assert served.ask("orders", b"{}", **{"Content-Type": "text/plain"})[0] == 415
    assert served.ask("orders", json.dumps({"prompt": "a" * 200_000}).encode())[0] == 413
    assert served.ask("jobs/none")[0] == 404 and served.ask("pictures/none.png")[0] == 404
    assert served.ask("stages", Host="elsewhere.example")[0] == 400
    assert served.ask("../setup.py")[0] == 404 and served.ask("%2e%2e/app.py")[0] == 404


def test_an_error_of_one_image_does_not_stop_the_server(served, cascade, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(cascade), "_sample_batch", fail)
    last = served.follow(served.order()[1]["id"])[-1]
    assert last["state"] == "failed" and "terminal" in last["problem"] and "out of memory" in caplog.text
    monkeypatch.undo()
    assert served.follow(served.order()[1]["id"])[-1]["state"] == "done"
