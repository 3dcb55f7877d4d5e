"""The memory and time that many orders and slow or leaving clients take; with a stand-in for the cascade."""

import gc
import json
import logging
import signal
import socket
import struct
import threading
import time
import tracemalloc
from contextlib import contextmanager

import jax
import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette

from imagen_jax.cascade.cascade import MAX_TRAJECTORIES
from imagen_jax.errors import UserError
from imagen_jax.runtime.progress_bars import compiling
from imagen_jax.web.app import make_app
from imagen_jax.web.jobs import Jobs
from imagen_jax.web.listening import Server, keep_out, serve
from imagen_jax.web.orders import Limits
from imagen_jax.web.pairs import make_comparison
from imagen_jax.web.rating_app import make_rating_app
from imagen_jax.web.ratings import RatingStore
from tests.tiers import thorough_except
from tests.web.asking import Served, data_url, wait_until
from tests.web.rating_folders import write_two_folders
from tests.web.served import serving
from tests.web.stand_in import StandIn

MEGABYTE = 2**20
LARGE = np.zeros((640, 640, 3), np.uint8)
LARGE[200:500, 300:600] = 200
PAINTED = data_url(LARGE)
EDIT = {"image": PAINTED, "mask": PAINTED, "resample": 2}
"""Some kilobytes, which take 3 MB when they are decoded and 8 MB when they are sampled."""


@contextmanager
def served(cascade, **limits):
    limits = Limits(**limits)
    with serving(make_app(Jobs(cascade, limits), limits, keep_out("127.0.0.1"))) as port:
        yield Served(port)
        cascade.may_step.set()


def states(server, names):
    return [server.follow(name)[-1]["state"] for name in names]


def traced():
    gc.collect()
    return tracemalloc.get_traced_memory()[0] / MEGABYTE


@contextmanager
def tracing():
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@pytest.mark.thorough
def test_sixty_orders_leave_nothing_but_their_images():
    with served(StandIn(), patience=0.5) as server, tracing():
        marks = []
        for number in range(60):
            name = server.order(seed=number, **EDIT)[1]["id"]
            if number % 3 == 1:
                server.ask(f"jobs/{name}", method="DELETE")
            if number % 3 == 2:
                server.send(f"GET /jobs/{name}", b"\r\n").close()
            server.follow(name)
            if number in (9, 59):
                marks.append(traced())
        assert server.order(prompt="panda")[0] == 202
    assert marks[1] - marks[0] < 5


@pytest.mark.thorough
def test_programs_of_ever_new_settings_are_cleared():
    cascade, traces = StandIn(), []
    jitted = jax.jit(lambda x: traces.append("traced") or x)
    with served(cascade) as server:
        for steps in (*range(1, MAX_TRAJECTORIES + 1), 1, 2, 3):
            jitted(1.0)
            server.follow(server.order(stages=[{"steps": steps}])[1]["id"])
        assert cascade.forgotten == 0 and traces == ["traced"]
        server.follow(server.order(stages=[{"steps": 200}])[1]["id"])
        jitted(1.0)
        assert cascade.forgotten == 1 and traces == ["traced"] * 2, "JAX's other caches are cleared too"


def test_waiting_images_stay_encoded():
    cascade = StandIn()
    with served(cascade, waiting=8) as server:
        cascade.may_step.clear()
        server.order()
        with tracing():
            server.order(**EDIT)
            before = traced()
            answers = [server.order(seed=number, **EDIT)[0] for number in range(6)]
            assert answers == [202] * 6 and traced() - before < 2


def test_waiting_images_are_bounded_by_their_bytes_too():
    cascade = StandIn()
    noise = data_url(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    with served(cascade, waiting=8, waiting_bytes=MEGABYTE // 2) as server:
        cascade.may_step.clear()
        server.order()
        cascade.begun.acquire()
        answers = [server.order(image=noise) for _ in range(4)]
        assert [status for status, _ in answers] == [202, 202, 429, 429]
        assert "0.5 MiB" in answers[-1][1]["problem"]
        assert server.order()[0] == 202, "an order without an image may still wait"
        server.ask(f"jobs/{answers[0][1]['id']}", method="DELETE")
        assert server.order(image=noise)[0] == 202, "a cancelled order leaves the queue at once"


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"mask": data_url(np.zeros((4, 4, 3), np.uint8))}, "mask"),
        ({"image": data_url(np.full((40, 40, 3), 7, np.uint8))[:-60]}, "the image"),
    ],
)
def test_images_that_can_not_be_decoded_fail_when_they_are_sampled(fields, fact):
    with served(StandIn()) as server:
        status, reply = server.order(**{"image": data_url(np.zeros((4, 4, 3), np.uint8)), **fields})
        last = server.follow(reply["id"])[-1]
        assert status == 202 and last["state"] == "failed" and fact in last["problem"]


def test_a_cancelled_order_ends_after_the_current_step():
    cascade = StandIn(steps=1000)
    with served(cascade) as server:
        cascade.may_step.clear()
        names = [server.order()[1]["id"] for _ in range(3)]
        cascade.begun.acquire()
        assert server.ask(f"jobs/{names[0]}", method="DELETE")[0] == 204
        assert server.follow(names[0])[-1]["state"] == "cancelled", "at once, although a step is still running"
        cascade.steps = 2
        cascade.may_step.set()
        assert states(server, names[1:]) == ["done", "done"]
        server.ask(f"jobs/{names[1]}", method="DELETE")
        assert server.follow(names[1])[-1]["state"] == "done", "a finished job stays as it is"
        assert [one["id"] for one in json.loads(server.ask("history")[1])] == [names[2], names[1]]


@pytest.mark.thorough
@pytest.mark.parametrize("follows", [False, True])
def test_orders_whose_client_has_left_are_dropped(follows):
    cascade = StandIn()
    with served(cascade, patience=1.0, patience_at_first=30.0 if follows else 1.0) as server:
        cascade.may_step.clear()
        names = [server.order()[1]["id"] for _ in range(3)]
        if follows:
            for name in names:
                server.send(f"GET /jobs/{name}", b"\r\n").close()
        time.sleep(1.5)
        mine = server.order()[1]["id"]
        cascade.may_step.set()
        assert states(server, [mine, *names]) == ["done", "cancelled", "cancelled", "cancelled"]
        assert server.follow(names[0])[-1]["problem"], "with the reason"


@pytest.mark.thorough
def test_an_order_that_somebody_follows_may_wait_for_long():
    cascade = StandIn()
    with served(cascade, patience=0.5) as server:
        cascade.may_step.clear()
        names = [server.order()[1]["id"] for _ in range(2)]
        threading.Timer(2.0, cascade.may_step.set).start()
        followers = [server.send(f"GET /jobs/{name}", b"\r\n") for name in names]
        time.sleep(3)
        assert states(server, names) == ["done", "done"]
        for follower in followers:
            follower.close()


@pytest.mark.thorough
def test_a_client_that_does_not_read_counts_as_one_that_has_left():
    cascade = StandIn(steps=500, side=256)
    images = [np.random.default_rng(one).uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32) for one in range(9)]
    cascade.show = lambda _: (time.sleep(0.05), cascade.on_estimate(images[int(time.time() * 20) % 9]))
    with served(cascade, patience=1.0) as server:
        name = server.order()[1]["id"]
        with server.send(f"GET /jobs/{name}", b"\r\n", buffer=4096):
            wait_until(lambda: server.ask(f"pictures/{name}.png")[0] == 404 and cascade.begun.acquire(blocking=False))
            time.sleep(8)
            cascade.steps = 1
            following = server.order()[1]["id"]
            assert states(server, [following, name]) == ["done", "cancelled"]


def test_the_history_is_bounded_by_number_and_bytes_and_cancelled_orders_do_not_count():
    cascade = StandIn(side=128)
    with served(cascade, kept=4, kept_bytes=170_000) as server:
        done = [server.order(seed=number)[1]["id"] for number in range(2) if server.ask("stages")]
        assert states(server, done) == ["done"] * 2
        size = len(server.ask(f"pictures/{done[0]}.png")[1])
        assert 2 * size < 170_000 < 4 * size
        cascade.may_step.clear()
        first = server.order()[1]["id"]
        for _ in range(9):
            server.ask(f"jobs/{server.order()[1]['id']}", method="DELETE")
        assert [one["id"] for one in json.loads(server.ask("history")[1])] == done[::-1]
        cascade.may_step.set()
        states(server, [first])
        for number in range(4):
            states(server, [server.order(seed=number)[1]["id"]])
        assert len(json.loads(server.ask("history")[1])) == 170_000 // size


def test_an_image_that_alone_is_larger_than_the_history_is_still_sent():
    with served(StandIn(side=128), kept_bytes=10) as server:
        for _ in range(2):
            last = server.follow(server.order()[1]["id"])[-1]
            assert server.ask(last["picture"])[0] == 200


@pytest.mark.thorough
def test_the_compilation_of_a_later_stage_is_told_too():
    class Compiled(StandIn):
        def draw(self, *arguments):
            (images,) = super().draw(*arguments)
            with compiling("super_resolution"):
                time.sleep(1.5)
            yield images

    with served(Compiled()) as server:
        events = server.follow(server.order()[1]["id"])
    steps = [event["step"] for event in events if event["compiling"]]
    assert steps and set(steps) == {2}
    assert events[-1]["state"] == "done" and not events[-1]["compiling"]


def test_an_occupied_port_is_one_error(capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="port"):
        serve(Starlette(), "127.0.0.1", taken.getsockname()[1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.thorough
def test_no_order_is_shown_the_preview_of_another():
    """Estimates arrive late, as they may from an accelerator."""

    class Late(StandIn):
        def show(self, images):
            def arrive(image):
                time.sleep(0.2)
                self.on_estimate(image)

            jax.jit(lambda image: jax.debug.callback(arrive, image))(images)
            time.sleep(0.15)

    colours = {"red": (220, 10, 10), "blue": (10, 10, 220)}
    urls = {name: data_url(np.full((16, 16, 3), colour, np.uint8)) for name, colour in colours.items()}
    with served(Late(steps=4)) as server:
        names = {server.order(image=urls[one], strength=0.5)[1]["id"]: one for one in ("red", "blue") * 3}
        events = {name: [] for name in names}
        threads = [
            threading.Thread(target=lambda name=name: events[name].extend(server.follow(name))) for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    previews = {(names[name], event["preview"]) for name in names for event in events[name] if event.get("preview")}
    assert {name for name, _ in previews} == {"red", "blue"}
    assert len({preview for _, preview in previews}) == 2, "a colour has one preview, which is its own"
    assert all(own[-1]["state"] == "done" and own[-1]["preview"] == "" for own in events.values())


@pytest.fixture(params=["page", "rating page"])
def server(request, tmp_path):
    if request.param == "page":
        with served(StandIn()) as server:
            server.paths = ["", "page.js", "history", f"jobs/{server.order()[1]['id']}"]
            server.takes = "orders"
            yield server
        return
    comparison = make_comparison(*write_two_folders(tmp_path))
    with RatingStore(tmp_path / "ratings.sqlite", comparison) as store:
        with serving(make_rating_app(store, comparison.pairs, keep_out("127.0.0.1"))) as port:
            server = Served(port)
            server.paths, server.takes = ["", "rating.js"], "next"
            yield server


@pytest.fixture
def complaints():
    """The lines that the server would print."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio", "absl")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lines
    for logger in loggers:
        logger.removeHandler(handler)


def read_until(connection, end):
    """Returns the response up to an end, and closes the connection."""
    answer = b""
    with connection:
        while end not in answer and (part := connection.recv(4096)):
            answer += part
    return answer.decode()


def leave(connection, abruptly):
    if abruptly:
        # The other side sees "connection reset".
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("abruptly", thorough_except([True], [False, True]))
def test_clients_that_leave_at_any_moment_print_nothing(server, complaints, abruptly):
    for path in server.paths:
        leave(server.send(f"GET /{path}", b"\r\n"), abruptly)
        leave(server.send(f"GET /{path}"), abruptly)
    for promised, sent in ((9000, 0), (9000, 10), (9000, 8999), (10, 10)):
        connection = server.begin_upload(server.takes, promised, sent)
        time.sleep(0.1)
        leave(connection, abruptly)
    time.sleep(0.5)
    assert server.ask("")[0] == 200 and complaints == []


def test_a_slow_body_loses_its_slot():
    with served(StandIn(), bodies=1, body_seconds=0.5) as server:
        slow = [server.begin_upload("orders", 9000, 10) for _ in range(3)]
        assert server.order()[0] == 202, "once the slow ones have lost theirs"
        answers = [read_until(connection, b"}") for connection in slow]
    assert all(" 408 " in answer and "0.5 s" in answer for answer in answers)


def test_ctrl_c_ends_the_server_though_somebody_follows(complaints):
    cascade = StandIn(steps=10_000)
    limits = Limits()
    app = make_app(Jobs(cascade, limits), limits, keep_out("127.0.0.1"))
    running = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"), app)
    thread = threading.Thread(target=running.run)
    thread.start()
    wait_until(lambda: running.started)
    client = Served(running.servers[0].sockets[0].getsockname()[1])
    cascade.may_step.clear()
    follower = client.send(f"GET /jobs/{client.order()[1]['id']}", b"\r\n")
    wait_until(lambda: follower.recv(4096))
    running.handle_exit(signal.SIGINT, None)
    thread.join(10)
    follower.close()
    assert not thread.is_alive() and complaints == []
    cascade.may_step.set()
