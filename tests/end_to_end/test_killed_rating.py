"""The rating page as a program: killed between two answers it loses none, and its results are those that were given."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.web.rating_folders import write_two_folders

pytestmark = pytest.mark.thorough

CHECKOUT = Path(__file__).parents[2]
PROMPTS = ["a red apple", "panda 🐼", "a pizza", "two dogs"]


def command(*arguments):
    return [sys.executable, "-m", "imagen_jax.commands.rate", "--a=ours", "--b=theirs", *arguments]


@pytest.fixture
def rating(tmp_path):
    """How to run the program in a folder with both folders of images."""
    write_two_folders(tmp_path, PROMPTS, categories=["Colors", "Animals", "Food", "Animals"])
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(CHECKOUT)}, "text": True}
    return options


def run(rating, *arguments):
    done = subprocess.run(command(*arguments), **rating, capture_output=True, timeout=900, check=False)
    return done.returncode, done.stdout, done.stderr


@contextmanager
def serving(rating, *arguments):
    """A server of its own, its port; killed at the end, without notice."""
    with subprocess.Popen(command("--port=0", *arguments), **rating, stdout=subprocess.PIPE) as process:
        try:
            for line in process.stdout:
                if found := re.match(r"Open http://localhost:(\d+) ", line):
                    yield int(found[1])
                    break
            else:
                raise AssertionError(f"it ended with {process.wait()}")
        finally:
            process.send_signal(signal.SIGKILL)


def post(port, path, **fields):
    body, headers = json.dumps({"rater": "Ann", **fields}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://localhost:{port}/{path}", body, headers)
    with urllib.request.urlopen(request, timeout=900) as answer:
        return json.loads(answer.read())


def rate(port, pair):
    return post(port, "answers", pair=pair["pair"], alignment="left", fidelity="indifferent")


def test_a_killed_server_continues_and_prints_the_results(rating, tmp_path):
    assert run(rating, "--results")[0] == 2
    with serving(rating) as port:
        second = rate(port, post(port, "next"))
        third = rate(port, second)
        status, _, errors = run(rating, "--port", str(port))
        assert status == 2 and f"127.0.0.1:{port}" in errors and "--port" in errors
        assert run(rating, "--results")[0] == 0, "while it is served"
    with serving(rating) as port:
        assert post(port, "next") == third | {"rated": 2}
        assert rate(port, third)["rated"] == 3

    status, printed, errors = run(rating, "--results")
    assert status == 0, errors
    assert re.search(r"\bours\b.*\btheirs\b.* 1 .* 3 .* 4 ", printed)
    assert "overall" in printed
    report = json.loads((tmp_path / "results.json").read_text())
    assert (report["a"], report["b"], report["raters"], report["rated"], report["pairs"]) == ("ours", "theirs", 1, 3, 4)
    fidelity = [one for one in report["win_rates"] if one["question"] == "fidelity"]
    assert fidelity[0]["category"] == "overall" and fidelity[0]["win_rate_of_a"] == 0.5
    assert report["share_of_left"] == 1.0
    with Image.open(tmp_path / "win_rates.png") as image:
        assert image.format == "PNG"
    assert "<svg" in (tmp_path / "win_rates.svg").read_text()
    (tmp_path / "ours").rename(tmp_path / "elsewhere")
    bare = [sys.executable, "-m", "imagen_jax.commands.rate", "--results"]
    assert subprocess.run(bare, **rating, capture_output=True, timeout=900, check=True).stdout == printed


def test_a_port_is_ours_alone_and_others_images_are_refused(rating, tmp_path):
    with serving(rating) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\nHost: elsewhere.example\r\n\r\n")
        assert b"400" in connection.recv(100)
    (tmp_path / "theirs").rename(tmp_path / "before")
    (tmp_path / "ours").rename(tmp_path / "theirs")
    (tmp_path / "before").rename(tmp_path / "ours")
    status, _, errors = run(rating, "--port=0")
    assert status == 2 and "error: " in errors
