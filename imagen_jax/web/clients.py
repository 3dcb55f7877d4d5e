"""Clients that send too much, are slow, or leave: what they may hold of the server, and for how long.

a request -> a place among the uploads -> its body, bounded in bytes and in seconds
a client that leaves, at any moment -> its request ends, and nothing is printed
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

UPLOAD_SECONDS = 60.0
"""In which the body of a request must arrive."""


class UploadError(Exception):
    """A body that is not taken.

    Attributes:
        status: of the answer.
    """

    def __init__(self, sentence: str, status: int):
        super().__init__(sentence)
        self.status = status


class Leavers:
    """Ends the request of a client that has left, without a traceback.

    Args:
        app: what answers requests.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            # There is nobody to answer.
            return


class Uploads:
    """Reads bodies of requests.

    Args:
        largest: bytes of a body.
        at_once: bodies that are in memory at once; more requests wait.
        seconds: in which a body must arrive.
    """

    def __init__(self, largest: int, at_once: int, seconds: float = UPLOAD_SECONDS):
        self.largest, self.seconds = largest, seconds
        self._places = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, which keeps its place among the uploads until the block ends.

        Raises:
            UploadError: status 413, where the body is larger than allowed, of which no more is read than that; status
                408, where it does not arrive in time.
            ClientDisconnect: the client leaves while it sends.
        """
        async with self._places:
            try:
                async with asyncio.timeout(self.seconds):
                    body = await self._read(request)
            except TimeoutError:
                raise UploadError(f"the request did not arrive within {self.seconds:g} s: send it again", 408) from None
            yield body

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.largest:
                most = f"{self.largest / 2**20:g} MiB" if self.largest >= 2**20 else f"{self.largest} bytes"
                raise UploadError(f"a request is at most {most} large: send a smaller one", 413)
        return bytes(body)


def is_json(request: Request) -> bool:
    """Whether a request says that its body is JSON, which other sites' pages can't say unasked."""
    return request.headers.get("content-type", "").split(";")[0].strip() == "application/json"


def refuse(sentence: str, status: int) -> Response:
    """Says why not."""
    return JSONResponse({"problem": sentence}, status)


def refuse_upload(request: Request, error: Exception) -> Response:
    """Answers a request whose body was not taken."""
    return refuse(str(error), error.status if isinstance(error, UploadError) else 400)
