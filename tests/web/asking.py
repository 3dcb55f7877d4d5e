"""Sends requests to the page's server as a browser does."""

import base64
import io
import json
import socket
import time
import urllib.error
import urllib.request

import numpy as np
from PIL import Image


class Served:
    """A client of a server.

    Args:
        port: port of this machine.
        stages: settings of each stage, for orders without their own.
    """

    def __init__(self, port, stages=()):
        self.port, self.stages = port, list(stages)

    def ask(self, path, data=None, method=None, **headers):
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def order(self, **fields):
        status, body = self.ask("orders", json.dumps({"prompt": "panda", "stages": self.stages, **fields}).encode())
        return status, json.loads(body)

    def follow(self, name):
        """Returns all events of a job until it is over."""
        status, body = self.ask(f"jobs/{name}")
        assert status == 200
        return [json.loads(line[6:]) for line in body.decode().split("\n\n") if line]

    def send(self, text, body=b"", buffer=None):
        """Sends the beginning of a request by a connection of its own, which it returns."""
        connection = socket.socket()
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(f"{text} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n".encode() + body)
        return connection

    def begin_upload(self, path, promised, sent):
        """Promises so many bytes of JSON and sends some of them."""
        head = f"Content-Type: application/json\r\nContent-Length: {promised}\r\n\r\n".encode()
        return self.send(f"POST /{path}", head + b" " * sent)


def data_url(pixels):
    """An image as a browser sends it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pixels_of(encoded):
    """An image as a browser shows it."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)


def wait_until(is_so, seconds=20):
    """Waits until a condition is true."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)
