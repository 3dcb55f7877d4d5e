"""The page's server, asked over HTTP as a browser asks it, with a small untrained cascade behind."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.image_files import read_png_metadata
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
    assert facts["max_steps"] == 20


def test_an_order_forms_becomes_a_picture_and_stays_in_the_history(served, cascade, tmp_path):
    status, told = served.order(seed=4)
    assert status == 202
    events = served.follow(told["id"])
    assert events[-1]["state"] == "done" and events[-1]["step"] == events[-1]["steps"] == 4
    previews = [event["preview"] for event in events if event.get("preview")]
    assert previews and all(pixels_of(base64.b64decode(one.partition(",")[2])).shape[2] == 3 for one in previews)
    status, picture = served.ask(events[-1]["picture"])
    expected = cascade.sample("panda", seed=4, steps=[2, 2], guidance=[2.0, 1.0])[0]
    np.testing.assert_array_equal(pixels_of(picture), np.asarray(expected))
    (tmp_path / "picture.png").write_bytes(picture)
    said = read_png_metadata(tmp_path / "picture.png")
    assert said["prompt"] == "panda" and said["seed"] == "4" and "2 steps" in said["stage_0"]
    history = json.loads(served.ask("history")[1])
    assert history[0]["settings"]["seed"] == 4
    assert served.follow(told["id"])[-1]["state"] == "done", "what is over can be asked for again"


def test_an_edit_keeps_what_is_not_painted(served):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[:, 8:] = 255
    _, told = served.order(image=data_url(picture), mask=data_url(mask), resample=2, strength=1)
    last = served.follow(told["id"])[-1]
    assert last["state"] == "done" and last["settings"]["edited"] == "mask"
    drawn = pixels_of(served.ask(last["picture"])[1])
    assert np.abs(drawn[:, :8] - picture[:, :8]).max() <= 1 and np.abs(drawn[:, 8:] - picture[:, 8:]).mean() > 5


def test_a_photo_taken_sideways_is_edited_upright_and_a_16_bit_mask_counts(served):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the first stored row is the right side, the first stored column the top
    photo, mask = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(picture))).save(photo, format="PNG", exif=exif)
    levels = np.zeros((16, 16), np.uint16)
    levels[:, :8], levels[:, 8:] = 20_000, 65_535
    Image.fromarray(levels).save(mask, format="PNG")
    photo, mask = ("data:image/png;base64," + base64.b64encode(one.getvalue()).decode() for one in (photo, mask))
    _, told = served.order(image=photo, mask=mask, strength=1)
    drawn = pixels_of(served.ask(served.follow(told["id"])[-1]["picture"])[1])
    assert np.abs(drawn[:, :8] - picture[:, :8]).max() <= 1 and np.abs(drawn[:, 8:] - picture[:, 8:]).mean() > 5


def test_orders_that_differ_in_their_pictures_alone_are_followed_while_they_wait(served):
    pictures = [np.full((16, 16, 3), shade, np.uint8) for shade in (0, 90, 180)]
    names = [served.order(image=data_url(picture), strength=0.5)[1]["id"] for picture in pictures]
    assert [served.follow(name)[-1]["state"] for name in reversed(names)] == ["done"] * 3


def test_the_queue_and_the_history_have_an_end(served):
    answers = [served.order(seed=number, stages=[{"steps": 20, "guidance": 2.0}] * 2) for number in range(6)]
    accepted = [told["id"] for status, told in answers if status == 202]
    refused = [told["problem"] for status, told in answers if status == 429]
    assert 2 <= len(accepted) <= 3 and "2 pictures are waiting already" in refused[0]
    assert served.ask(f"jobs/{accepted[-1]}", method="DELETE")[0] == 204
    states = [served.follow(name)[-1]["state"] for name in accepted]
    assert states == ["done"] * (len(accepted) - 1) + ["cancelled"]
    for number in range(5):
        served.follow(served.order(seed=number)[1]["id"])
    assert len(json.loads(served.ask("history")[1])) <= LIMITS.kept


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt": ""}, "write a prompt"),
        ({"prompt": "x" * 2001}, "up to 2000 characters"),
        ({"prompt": 3}, "up to 2000 characters"),
        ({"seed": -1}, "seed is -1: choose a whole number from 0 to 4294967295"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": True}, "seed is True: choose a whole number"),
        ({"stages": [{"steps": 21}, {"steps": 1}]}, "1 and 20"),
        ({"stages": [{"steps": 2}]}, "each of 2 stage"),
        ({"stages": [{"steps": 2}, {}]}, "give it for all"),
        ({"stages": [{"sampler": "euler"}] * 2}, "sampler is one of"),
        ({"stages": [{"guidance": 1e9}] * 2}, "guidance"),
        ({"stages": "many"}, "a list of one object"),
        ({"image": "data:image/png;base64,AAAA"}, "picture can't be read"),
        ({"image": "https://somewhere/picture.png"}, "picture can't be read"),
        ({"image": BLACK, "mask": data_url(np.zeros((5, 4, 3), np.uint8))}, "make them equal"),
        ({"image": BLACK, "strength": 0}, "strength"),
        ({"mask": BLACK}, "mask has no effect without an image"),
        ({"strength": 0.5}, "strength has no effect without an image"),
        ({"resample": 2}, "resample has no effect without an image"),
        ({"image": data_url(np.zeros((5000, 2, 3), np.uint8))}, "4096 at most"),
    ],
)  # fmt: skip
def test_orders_that_make_no_sense_are_refused_in_a_sentence(served, asked, words):
    status, told = served.order(**asked)
    assert status == 400 and words in told["problem"]


def test_what_is_no_order_is_refused(served):
    assert served.ask("orders", b"{")[0] == 400
    assert served.ask("orders", b"[" * 50_000)[0] == 400
    assert served.ask("orders", b"{}", **{"Content-Type": "text/plain"})[0] == 415
    assert served.ask("orders", json.dumps({"prompt": "a" * 200_000}).encode())[0] == 413
    assert served.ask("jobs/none")[0] == 404 and served.ask("pictures/none.png")[0] == 404
    assert served.ask("stages", Host="elsewhere.example")[0] == 400
    assert served.ask("../setup.py")[0] == 404 and served.ask("%2e%2e/app.py")[0] == 404


def test_a_fault_of_one_picture_is_not_the_end(served, cascade, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(cascade), "_sample_batch", fail)
    last = served.follow(served.order()[1]["id"])[-1]
    assert last["state"] == "failed" and "terminal" in last["problem"] and "out of memory" in caplog.text
    monkeypatch.undo()
    assert served.follow(served.order()[1]["id"])[-1]["state"] == "done"
