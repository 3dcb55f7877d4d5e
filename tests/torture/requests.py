"""Requests that no browser sends, to both web pages, without a server and without sampling."""

import asyncio
import json
import random
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from starlette.types import ASGIApp, Message

from imagen_jax.cascade.sampling_settings import SamplingSettings
from imagen_jax.cascade.stage import Stage
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.web.app import make_app
from imagen_jax.web.jobs import DONE, Job, Jobs
from imagen_jax.web.listening import keep_out
from imagen_jax.web.orders import Limits, Order
from imagen_jax.web.pairs import make_comparison
from imagen_jax.web.rating_app import make_rating_app
from imagen_jax.web.ratings import RatingStore
from tests.stages_of_functions import stage_of
from tests.torture.mutations import Make, edit_json, edits
from tests.web.rating_folders import write_two_folders

HOST = "127.0.0.1"
PROXY = "https://hub.example:8443"
"""Where a proxy shows the pages."""

JSON = [["host", HOST], ["content-type", "application/json"]]
STAGE = {"steps": 2, "guidance": 2.0, "sampler": "ddim", "spacing": "uniform", "thresholding": "dynamic",
         "augmentation_level": 0.1}  # fmt: skip
PATHS = ("/", "/page.js", "/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/pictures/../../app.py.png")
HEADERS = ("host", "origin", "sec-fetch-site", "sec-fetch-mode", "content-type", "content-length", "range",
           "if-none-match", "if-modified-since", "accept-encoding", "cookie", "x-forwarded-host")  # fmt: skip
VALUES = (HOST, "elsewhere.example", f"http://{HOST}", "null", "cross-site", "navigate", "application/json", "9" * 30,
          "-1", "bytes=0-1", "bytes=5-1", "bytes=0-,0-,0-", "", "\xff\xfe", "a" * 9000)  # fmt: skip

Parts = tuple[str, str, list[list[str]], Any]
"""Method, path, headers, and what the body holds, as JSON or nothing."""


Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


class Client(NamedTuple):
    """Functions that make requests, send one, and release the resources."""

    make: Make
    read: Callable[[bytes], Answer]
    close: Callable[[], object]


class UnansweredError(Exception):
    """Raised if the answer to a request is wrong."""


class NoDrawing(Jobs):
    """Jobs that are done at once."""

    def __init__(self, stages: list[Stage], limits: Limits):
        trained = SimpleNamespace(config=ConfigDict({"sampling": STAGE}))
        trained_stages = [trained] * len(stages)
        self.cascade = SimpleNamespace(stages=stages, trained=trained_stages, names=[])  # type: ignore[assignment]
        self.limits = limits
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()

    def add(self, order: Order) -> Job:
        job = Job(order, name="name", state=DONE, image=b"image")
        self._jobs = OrderedDict(name=job)
        return job


def of_requests(valid: list[Parts]) -> Make:
    """Makes requests: a line of JSON with method, path and headers, and then the body."""

    def make(rng: random.Random) -> bytes:
        method, path, headers, body = rng.choice(valid)
        content = b"" if body is None else json.dumps(body).encode()
        kind = rng.random()
        if body is not None and kind < 0.75:
            content = edit_json(rng, body)
        elif body is not None and kind < 0.85:
            content = edits(rng, content)
        else:
            path = edits(rng, rng.choice([path, *PATHS]).encode()).decode("latin-1")[:9000]
            method = rng.choice([method, "GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "X"])
        if rng.random() < 0.2:
            headers = [*headers, [rng.choice(HEADERS), rng.choice(VALUES)]]
        if rng.random() < 0.1:
            headers = [one for one in headers if one[0] != rng.choice(HEADERS)]
        return json.dumps([method, path, headers]).encode() + b"\n" + content

    return make


async def call(app: ASGIApp, content: bytes) -> Answer:
    """Sends a request, and checks that it is answered.

    Raises:
        UnansweredError: the server failed, or the answer is unreadable.
    """
    head, _, body = content.partition(b"\n")
    method, path, headers = json.loads(head)
    from_client: list[Message] = [{"type": "http.disconnect"}, {"type": "http.request", "body": body}]
    answers: list[Message] = []

    async def receive() -> Message:
        return from_client.pop() if len(from_client) > 1 else from_client[0]

    async def send(message: Message) -> None:
        answers.append(message)

    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    target, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": target, "raw_path": target.encode("latin-1"), "root_path": "",
        "query_string": query.encode("latin-1"), "headers": raw, "http_version": "1.1", "scheme": "http",
        "server": (HOST, 80), "client": (HOST, 1), "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)
    status = answers[0]["status"]
    payload = b"".join(message.get("body", b"") for message in answers[1:])
    kinds = {value for name, value in answers[0]["headers"] if name == b"content-type"}
    if status >= 500:
        raise UnansweredError(f"status {status}: {payload[:200]!r}")
    if method != "HEAD" and b"application/json" in kinds:
        json.loads(payload, parse_constant=refuse_constant)
    if b"from starlette" in payload or b"root:" in payload:
        raise UnansweredError("a file of this machine was served")
    headers_sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in answers[0]["headers"]}
    return status, headers_sent, payload


def refuse_constant(name: str) -> None:
    raise UnansweredError(f"{name} is not JSON")


def answer(client: Client, content: bytes) -> Answer:
    """The answer to a request."""
    return client.read(content)


def make_reader(app: ASGIApp, also: tuple[bytes, ...] = ()) -> tuple[Callable[[bytes], Answer], Callable[[], object]]:
    """Two functions: one sends a request, and then others that must still be answered; one closes the event loop."""
    loop = asyncio.new_event_loop()

    def ask(content: bytes) -> Answer:
        result = loop.run_until_complete(call(app, content))
        for one in also:
            loop.run_until_complete(call(app, one))
        return result

    def close() -> None:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    return ask, close


def order_requests(image: str) -> Client:
    """Requests to the page that samples.

    Args:
        image: an image as a data URL.
    """
    settings = SamplingSettings(2, STEP_RULES["ddim"](0.0, 0.0), 1.0, lambda estimate: estimate)
    stages = [stage_of(None, (size, size, 3), settings, low) for size, low in ((8, None), (16, 8))]
    app = make_app(NoDrawing(stages, Limits()), Limits(), keep_out(HOST, [PROXY]))
    order = {"prompt": "a cat", "negative_prompt": "", "seed": 3, "stages": [STAGE, STAGE]}
    edit = {**order, "image": image, "strength": 0.5}
    valid: list[Parts] = [
        ("POST", "/orders", JSON, order),
        ("POST", "/orders", JSON, edit),
        ("POST", "/orders", JSON, {**order, "image": image, "mask": image, "resample": 2}),
        ("GET", "/jobs/name", JSON, None),
        ("GET", "/pictures/name.png", JSON, None),
        ("GET", "/history", JSON, None),
    ]
    history = json.dumps(["GET", "/history", JSON]).encode() + b"\n"
    return Client(of_requests(valid), *make_reader(app, (history,)))


def rating_requests(folder: Path) -> Client:
    """Requests to the page on which people rate.

    Args:
        folder: for images and the database.
    """
    comparison = make_comparison(*write_two_folders(folder))
    store = RatingStore(folder / "ratings.sqlite", comparison)
    app = make_rating_app(store, comparison.pairs, keep_out(HOST, [PROXY]))
    valid: list[Parts] = [
        ("POST", "/next", JSON, {"rater": "ann"}),
        ("POST", "/answers", JSON, {"rater": "ann", "pair": "0" * 24, "alignment": "left", "fidelity": "right"}),
        ("GET", "/pictures/name.png", JSON, None),
    ]
    ask, close_loop = make_reader(app)

    def close() -> None:
        close_loop()
        store.__exit__()

    return Client(of_requests(valid), ask, close)
