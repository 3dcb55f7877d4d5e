"""The rating page's server, asked over HTTP as a browser asks it."""

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
    """How to ask a server."""

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

    def post(self, path, **asked):
        status, body, _ = self.ask(path, json.dumps(asked).encode())
        return status, json.loads(body)

    def next(self, rater):
        status, told = self.post("next", rater=rater)
        assert status == 200
        return told

    def rate(self, rater, pair, alignment="left", fidelity="indifferent"):
        status, told = self.post("answers", rater=rater, pair=pair, alignment=alignment, fidelity=fidelity)
        assert status == 200, told
        return told

    def model_of(self, address):
        """Whose picture it is, by its colour."""
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


def test_a_rater_prefers_a_model_and_the_database_says_so(served, store):
    told, seen = served.next("Ann"), []
    while "pair" in told:
        assert told["rated"] == len(seen) and told["total"] == 7
        left, right = (served.model_of(told[side][0]) for side in ("left", "right"))
        assert {left, right} == {"ours", "theirs"}
        seen.append(told["prompt"])
        # Ours fits the caption better, theirs looks better.
        preferred = "left" if left == "ours" else "right"
        told = served.rate("Ann", told["pair"], preferred, "right" if preferred == "left" else "left")
    assert told == {"rated": 7, "total": 7}
    assert sorted(seen) == PROMPTS and seen != PROMPTS
    ratings = store.ratings()
    assert len(ratings) == 14
    assert {(one.question, one.answer) for one in ratings} == {("alignment", "a"), ("fidelity", "b")}


def test_nothing_that_the_browser_gets_tells_the_model(served, tmp_path):
    told = served.next("Ann")
    assert set(told) == {"rated", "total", "pair", "prompt", "left", "right", "soon"}
    shown = [*told["left"], *told["right"], *told["soon"]]
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


def test_pixels_are_shown_as_they_were_drawn(served, comparison):
    told = served.next("Ann")
    pair = next(pair for pair in comparison.pairs if pair.prompt == told["prompt"])
    originals = [np.asarray(Image.open(files[0])) for files in (pair.a, pair.b)]
    shown = [np.asarray(Image.open(io.BytesIO(served.ask(told[side][0])[1]))) for side in ("left", "right")]
    if served.model_of(told["left"][0]) == "theirs":
        originals.reverse()
    np.testing.assert_array_equal(shown, originals)


def test_who_reloads_goes_on_where_they_were(served, store, comparison):
    first = served.next("Ann")
    assert served.next(" Ann ") == first
    second = served.rate("Ann", first["pair"])
    assert served.next("Ann") == second and second["pair"] != first["pair"] and second["rated"] == 1
    assert second["left"] + second["right"] == first["soon"], "they are asked for before they are shown"
    with serving(make_rating_app(store, comparison.pairs, keep_out("127.0.0.1"))) as port:
        again = Served(port)
        assert again.next("Ann") == second, "another server deals the same"
        assert again.rate("Ann", second["pair"])["rated"] == 2
    assert served.next("Ann")["rated"] == 2


def test_an_answer_given_again_replaces_the_first(served, store):
    first = served.next("Ann")
    second = served.rate("Ann", first["pair"], "left", "left")
    assert served.rate("Ann", first["pair"], "indifferent", "indifferent") == second
    assert [one.answer for one in store.ratings()] == ["indifferent"] * 2


def test_many_raters_at_once(served, store):
    def rate_all(rater):
        told = served.next(rater)
        while "pair" in told:
            told = served.rate(rater, told["pair"])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(rate_all, [f"rater {number}" for number in range(6)]))
    assert len(store.ratings()) == 6 * 7 * 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "write a name"),
        ({"rater": "  "}, "write a name"),
        ({"rater": 3}, "write a name"),
        ({"rater": "Ann", "aligment": "a"}, "did you mean 'alignment'"),
        ({"rater": "x" * 101}, "up to 100 characters"),
        ({"rater": "\ud800"}, "up to 100 characters"),
        ({"rater": "Ann", "pair": None}, "no such pair"),
        ({"rater": "Ann", "pair": ["x"]}, "no such pair"),
        ({"rater": "Ann", "pair": "of Bob"}, "no such pair"),
        ({"rater": "Ann", "alignment": "a"}, "both answers are one of"),
        ({"rater": "Ann", "fidelity": None}, "both answers are one of"),
        ({"rater": "Ann", "fidelity": {"left": 1}}, "both answers are one of"),
    ],
    ids=str,
)
def test_answers_that_make_no_sense_are_refused_in_a_sentence(served, store, asked, words):
    names = {rater: served.next(rater)["pair"] for rater in ("Ann", "Bob")}
    given = {"pair": names["Ann"], "alignment": "left", "fidelity": "right"} | asked
    if given["pair"] == "of Bob":
        given["pair"] = names["Bob"]
    status, told = served.post("answers", **given)
    assert status == 400 and words in told["problem"].lower()
    assert store.ratings() == []


def test_what_is_no_request_is_refused(served):
    for path in ("next", "answers"):
        assert served.ask(path, b"{")[0] == 400
        assert served.ask(path, b"[]")[0] == 400
        assert served.ask(path, b"[" * 9_000)[0] == 400
        assert served.ask(path, b"{}", **{"Content-Type": "text/plain"})[0] == 415
        assert served.ask(path, json.dumps({"rater": "a" * 20_000}).encode())[0] == 413
        assert served.ask(path)[0] == 404
    assert served.ask("", Host="elsewhere.example")[0] == 400
    assert served.ask("pictures/none.png")[0] == 404


def test_a_picture_or_a_database_that_fails_is_told_and_not_the_end(served, store, comparison, caplog):
    told = served.next("Ann")
    pair = next(pair for pair in comparison.pairs if pair.prompt == told["prompt"])
    content = pair.a[0].read_bytes()
    pair.a[0].unlink()
    statuses = sorted(served.ask(told[side][0])[0] for side in ("left", "right"))
    assert statuses == [200, 404] and "can't be shown any more" in caplog.text
    pair.a[0].write_bytes(content)
    assert served.ask(told["left"][0])[0] == 200

    store._ask("PRAGMA query_only = ON")
    asked = {"rater": "Ann", "pair": told["pair"], "alignment": "left", "fidelity": "left"}
    status, refusal = served.post("answers", **asked)
    assert (
        status == 503 and "nothing of this is kept" in refusal["problem"] and str(store.path) not in refusal["problem"]
    )
    assert "readonly" in caplog.text
    store._ask("PRAGMA query_only = OFF")
    assert served.post("answers", **asked)[1]["rated"] == 1


def test_rows_are_plain_to_read(served, store):
    told = served.next("Ann")
    left = {"ours": "a", "theirs": "b"}[served.model_of(told["left"][0])]
    served.rate("Ann", told["pair"], "right", "indifferent")
    connection = sqlite3.connect(store.path)
    try:
        (row,) = connection.execute(
            'SELECT rater, prompt, "left", alignment, fidelity FROM ratings JOIN pairs USING (pair)'
        )
    finally:
        connection.close()
    assert row == ("Ann", told["prompt"], left, "right", "indifferent")
