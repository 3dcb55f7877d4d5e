"""Sends orders to the page's server, most of which fail or are cancelled, and measures its memory.

    python -m tests.torture.serve_memory --orders=500 [--report=tests/torture/serve_memory.md]

`imagen_jax serve` runs as a user starts it, with the small cascade of the tests, and is called over the loopback.
``make_kinds`` lists the orders, which are sent in turn. The report is a table of the server's resident memory.
"""

import argparse
import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.small_cascades import write_cascade
from tests.web.asking import Served

ORDERS_PER_ROW = 25
UNREAD_AT_ONCE = 20
STEPS = 4

HEAD = """# The memory of the page's server

Made by

    python -m tests.torture.serve_memory --orders={orders}

`imagen_jax serve` draws with the tests' small cascade and is asked over the loopback. Of ten orders one begins with a
4096 × 4096 picture and mask of {large_kilobytes} kB each as PNG, two with smaller ones, and one with a strength, of
which every tenth is new. One is cancelled in the queue, one while it is drawn. Of one the follower leaves, of one he
does not read, one is cut off while it is sent, and one is a prompt alone. Resident memory in MB, when the queue is
empty:

| orders | seconds | resident | highest so far |
|---|---|---|---|
"""


class Server:
    """`imagen_jax serve` as a process, and a client.

    Args:
        stages: workdirs of the cascade.
    """

    def __init__(self, stages: list[Path]):
        names = ",".join(map(str, stages))
        command = [sys.executable, "-m", "imagen_jax.commands.serve", f"--stages={names}", "--port=0"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        found = re.search(r"localhost:(\d+)", self.process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        self.client = Served(int(found[1]), [{"steps": STEPS, "guidance": 1.0}] * len(stages))
        self.unread: list[Any] = []

    def order(self, **fields: Any) -> str:
        """Orders an image, and retries until the queue has room."""
        while True:
            status, reply = self.client.order(**fields)
            if status == 202:
                return str(reply["id"])
            if status != 429:
                raise SystemExit(f"status {status}: {reply}")
            time.sleep(0.1)

    def megabytes(self, name: str) -> int:
        """A line of the process's status, such as "VmRSS"."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) // 1024


def follow(server: Server, number: int, **fields: Any) -> None:
    """Waits until the image is finished, and downloads it."""
    last = server.client.follow(server.order(seed=number, **fields))[-1]
    if last["state"] != "done":
        raise SystemExit(f"order {number}: {last}")
    server.client.ask(last["picture"])


def cancel_in_queue(server: Server, number: int, **fields: Any) -> None:
    """Sends two orders and cancels the second."""
    first, second = (server.order(seed=number + one, **fields) for one in range(2))
    server.client.ask(f"jobs/{second}", method="DELETE")
    server.client.follow(first)


def cancel_while_sampled(server: Server, number: int, **fields: Any) -> None:
    """Cancels an order after it has begun."""
    name = server.order(seed=number, **fields)
    with server.client.send(f"GET /jobs/{name}", b"\r\n") as connection:
        while b'"drawing"' not in (received := connection.recv(65536)) and b'"done"' not in received:
            continue
    server.client.ask(f"jobs/{name}", method="DELETE")


def leave(server: Server, number: int, **fields: Any) -> None:
    """Closes the connection that follows the order at once."""
    server.client.send(f"GET /jobs/{server.order(seed=number, **fields)}", b"\r\n").close()


def read_nothing(server: Server, number: int, **fields: Any) -> None:
    """Keeps the connection that follows the order, and reads nothing."""
    server.unread.append(server.client.send(f"GET /jobs/{server.order(seed=number, **fields)}", b"\r\n", buffer=4096))
    if len(server.unread) > UNREAD_AT_ONCE:
        server.unread.pop(0).close()


def abort_upload(server: Server, number: int, **fields: Any) -> None:
    """Sends only a part of the announced body."""
    server.client.begin_upload("orders", 20_000_000, 5_000_000).close()


def encode_image(pixels: np.ndarray) -> str:
    """An image as a small PNG in a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_scene(side: int) -> np.ndarray:
    """Rectangles: large as pixels, small as a file."""
    generator, pixels = np.random.default_rng(side), np.zeros((side, side, 3), np.uint8)
    for _ in range(30):
        top, left = generator.integers(0, side, 2)
        pixels[top : top + side // 4, left : left + side // 4] = generator.integers(0, 256, 3)
    return pixels


def make_kinds() -> tuple[list[tuple[Callable[..., None], dict[str, Any]]], int]:
    """The orders that are sent in turn, and the size of the large image in kilobytes."""
    large, middle = (encode_image(make_scene(side)) for side in (4096, 1024))
    mask = encode_image(np.where(make_scene(4096) > 100, 255, 0).astype(np.uint8).max(-1, keepdims=True).repeat(3, -1))
    noise = encode_image(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    kinds: list[tuple[Callable[..., None], dict[str, Any]]] = [
        (follow, {"image": large, "mask": mask}),
        (follow, {"image": middle, "mask": middle}),
        (cancel_in_queue, {"image": middle, "mask": middle}),
        (cancel_while_sampled, {"image": noise}),
        (leave, {"image": middle, "mask": middle}),
        (read_nothing, {"image": noise}),
        (abort_upload, {}),
        (follow, {}),
        (follow, {"image": noise, "strength": 0.5}),
        (follow, {"image": noise, "mask": noise}),
    ]
    return kinds, len(large) * 3 // 4 // 1000


def main() -> None:
    """Sends the orders and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=500)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    kinds, kilobytes = make_kinds()
    report = HEAD.format(orders=arguments.orders, large_kilobytes=kilobytes)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(write_cascade(Path(folder)))
        began = time.monotonic()
        try:
            for number in range(arguments.orders + 1):
                if number % ORDERS_PER_ROW == 0 and number:
                    follow(server, number)
                    seconds = time.monotonic() - began
                    row = [number, f"{seconds:.0f}", server.megabytes("VmRSS"), server.megabytes("VmHWM")]
                    report += f"| {' | '.join(map(str, row))} |\n"
                    print(report.splitlines()[-1], flush=True)
                act, fields = kinds[number % len(kinds)]
                if "strength" in fields and number % 100 == 8:
                    fields = {**fields, "strength": 0.2 + number / 1000}
                act(server, number, **fields)
        finally:
            server.process.kill()
            server.process.wait()
    if arguments.report is not None:
        arguments.report.write_text(report)


if __name__ == "__main__":
    main()
