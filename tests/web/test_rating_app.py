"""The rating page's server over HTTP, as a browser uses it."""

import io
import json
import sqlite3
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from imagen_jax.web.listening import keep_out
from imagen_jax.web.pairs import make_comparison
from imagen_jax.web.rating_app import make_rating_app
from imagen_jax.web.ratings import RatingStore
from tests.web.rating_folders import BLUE, RED, write_two_folders
from tests.web.served import serving

PROMPTS = [f"prompt {number}" for number in range(7)]


class Served:
    """A client of a server."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, data=None, **headers):
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def post(self, path, **fields):
        status, body, _ = self.ask(path, json.dumps(fields).encode())
        return status, json.loads(body)

    def next(self, rater):
        status, reply = self.post("next", rater=rater)
        assert status == 200
        return reply

    def rate(self, rater, pair, alignment="left", fidelity="indifferent"):
        status, reply = self.post("answers", rater=rater, pair=pair, alignment=alignment, fidelity=fidelity)
        assert status == 200, reply
        return reply

    def model_of(self, address):
        """Returns the model of an image, by its colour."""
        status, content, _ = self.ask(address)
        assert status == 200
        with Image.open(io.BytesIO(content)) as image:
            return {RED: "ours", BLUE: "theirs"}[image.getpixel((8, 8))]


@pytest.fixture
def comparison(tmp_path):
    return make_comparison(*write_two_folders(tmp_path, PROMPTS))


@pytest.fixture
def store(tmp_path, comparison):
    with RatingStore(tmp_path / "ratings.sqlite", comparison) as store:
        yield store


@pytest.fixture
def served(store, comparison):
    with serving(make_rating_app(store, comparison.pairs, keep_out("127.0.0.1"))) as port:
        yield Served(port)


def test_the_page_and_what_it_loads_are_there(served):
    for path, words in (("", b"I am indifferent"), ("rating.js", b"alignment"), ("rating.css", b"#caption")):
        status, body, _ = served.ask(path)
        assert status == 200 and words in body


def test_a_rater_prefers_a_model_and_the_database_has_it(served, store):
    reply, seen = served.next("Ann"), []
    while "pair" in reply:
        assert reply["rated"] == len(seen) and reply["total"] == 7
        left, right = (served.model_of(reply[side][0]) for side in ("left", "right"))
        assert {left, right} == {"ours", "theirs"}
        seen.append(reply["prompt"])
        # Ours fits the caption better, theirs looks better.
        preferred = "left" if left == "ours" else "right"
        reply = served.rate("Ann", reply["pair"], preferred, "right" if preferred == "left" else "left")
    assert reply == {"rated": 7, "total": 7}
    assert sorted(seen) == PROMPTS and seen != PROMPTS
    ratings = store.ratings()
    assert len(ratings) == 14
    assert {(one.question, one.answer) for one in ratings} == {("alignment", "a"), ("fidelity", "b")}


def test_nothing_that_the_browser_gets_reveals_the_model(served, tmp_path):
    reply = served.next("Ann")
    assert set(reply) == {"rated", "total", "pair", "prompt", "left", "right", "soon"}
    shown = [*reply["left"], *reply["right"], *reply["soon"]]
    assert len(shown) == 4
    sizes, kinds = set(), set()
    for address in shown:
        _, content, headers = served.ask(address)
        for word in (b"ours", b"theirs", b"model", b"prompt", b"png" + bytes(4) + b"tEXt", b"iTXt"):
            assert word not in content
        assert not {"last-modified", "etag", "content-disposition"} & {name.lower() for name in headers}
        kinds.add(content[:8])
        with Image.open(io.BytesIO(content)) as image:
            sizes.add(image.size)
            assert image.info == {}
    assert sizes == {(16, 16)} and kinds == {b"\x89PNG\r\n\x1a\n"}
    for path in (
        "results",
        "results.json",
        "ratings.sqlite",
        "../ratings.sqlite",
        "pictures/../../ours/x.png",
        "%2e%2e/x",
    ):
        assert served.ask(path)[0] == 404


def test_pixels_are_shown_unchanged(served, comparison):
    reply = served.next("Ann")
    pair = next(pair for pair in comparison.pairs if pair.prompt == reply["prompt"])
    originals = [np.asarray(Image.open(files[0])) for files in (pair.a, pair.b)]
    shown = [np.asarray(Image.open(io.BytesIO(served.ask(reply[side][0])[1]))) for side in ("left", "right")]
    if served.model_of(reply["left"][0]) == "theirs":
        originals.reverse()
    np.testing.assert_array_equal(shown, originals)


def test_a_rater_who_reloads_continues(served, store, comparison):
    first = served.next("Ann")
    assert served.next(" Ann ") == first
    second = served.rate("Ann", first["pair"])
    assert served.next("Ann") == second and second["pair"] != first["pair"] and second["rated"] == 1
    assert second["left"] + second["right"] == first["soon"], "they are requested before they are shown"
    with serving(make_rating_app(store, comparison.pairs, keep_out("127.0.0.1"))) as port:
        again = Served(port)
        assert again.next("Ann") == second, "another server deals the same"
        assert again.rate("Ann", second["pair"])["rated"] == 2
    assert served.next("Ann")["rated"] == 2


def test_a_repeated_answer_replaces_the_first(served, store):
    first = served.next("Ann")
    second = served.rate("Ann", first["pair"], "left", "left")
    assert served.rate("Ann", first["pair"], "indifferent", "indifferent") == second
    assert [one.answer for one in store.ratings()] == ["indifferent"] * 2


def test_many_raters_at_once(served, store):
    def rate_all(rater):
        reply = served.next(rater)
        while "pair" in reply:
            reply = served.rate(rater, reply["pair"])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(rate_all, [f"rater {number}" for number in range(6)]))
    assert len(store.ratings()) == 6 * 7 * 2


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({}, "name"),
        ({"rater": "  "}, "name"),
        ({"rater": 3}, "name"),
        ({"rater": "Ann", "aligment": "a"}, "'alignment'"),
        ({"rater": "x" * 101}, "100"),
        ({"rater": "\ud800"}, "Unicode"),
        ({"rater": "Ann", "pair": None}, "pair"),
        ({"rater": "Ann", "pair": ["x"]}, "pair"),
        ({"rater": "Ann", "pair": "of Bob"}, "pair"),
        ({"rater": "Ann", "alignment": "a"}, "left, indifferent, right"),
        ({"rater": "Ann", "fidelity": None}, "left, indifferent, right"),
        ({"rater": "Ann", "fidelity": {"left": 1}}, "left, indifferent, right"),
    ],
    ids=str,
)
def test_invalid_answers_are_refused(served, store, fields, fact):
    names = {rater: served.next(rater)["pair"] for rater in ("Ann", "Bob")}
    given = {"pair": names["Ann"], "alignment": "left", "fidelity": "right"} | fields
    if given["pair"] == "of Bob":
        given["pair"] = names["Bob"]
    status, reply = served.post("answers", **given)
    assert status == 400 and fact in reply["problem"]
    assert store.ratings() == []


def test_invalid_requests_are_refused(served):
    for path in ("next", "answers"):
        assert served.ask(path, b"{")[0] == 400
        assert served.ask(path, b"[]")[0] == 400
        assert served.ask(path, b"[" * 9_000)[0] == 400
        assert served.ask(path, b"{}", **{"Content-Type": "text/plain"})[0] == 415
        assert served.ask(path, json.dumps({"rater": "a" * 20_000}).encode())[0] == 413
        assert served.ask(path)[0] == 404
    assert served.ask("", Host="elsewhere.example")[0] == 400
    assert served.ask("pictures/none.png")[0] == 404


def test_an_image_or_a_database_that_fails_is_logged_and_does_not_stop_the_server(served, store, comparison, caplog):
    reply = served.next("Ann")
    pair = next(pair for pair in comparison.pairs if pair.prompt == reply["prompt"])
    content = pair.a[0].read_bytes()
    pair.a[0].unlink()
    statuses = sorted(served.ask(reply[side][0])[0] for side in ("left", "right"))
    assert statuses == [200, 404] and pair.a[0].name in caplog.text
    pair.a[0].write_bytes(content)
    assert served.ask(reply["left"][0])[0] == 200

    store._ask("PRAGMA query_only = ON")
    fields = {"rater": "Ann", "pair": reply["pair"], "alignment": "left", "fidelity": "left"}
    status, refusal = served.post("answers", **fields)
    assert status == 503 and refusal["problem"] and str(store.path) not in refusal["problem"]
    assert "readonly" in caplog.text
    store._ask("PRAGMA query_only = OFF")
    assert served.post("answers", **fields)[1]["rated"] == 1


def test_rows_are_readable(served, store):
    reply = served.next("Ann")
    left = {"ours": "a", "theirs": "b"}[served.model_of(reply["left"][0])]
    served.rate("Ann", reply["pair"], "right", "indifferent")
    connection = sqlite3.connect(store.path)
    try:
        (row,) = connection.execute(
            'SELECT rater, prompt, "left", alignment, fidelity FROM ratings JOIN pairs USING (pair)'
        )
    finally:
        connection.close()
    assert row == ("Ann", reply["prompt"], left, "right", "indifferent")
