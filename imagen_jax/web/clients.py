"""Limits the memory and time of clients that send too much, are slow, or disconnect.

a request -> one of the upload slots -> its body, limited in bytes and in seconds
a client that disconnects at any time -> its request ends without output
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

UPLOAD_SECONDS = 60.0
"""Default time limit in seconds for the arrival of a request's body."""


class UploadError(Exception):
    """A rejected request body.

    Attributes:
        status: HTTP status of the response.
    """

    def __init__(self, sentence: str, status: int):
        super().__init__(sentence)
        self.status = status


class DisconnectGuard:
    """ASGI middleware that ends the request of a disconnected client without a traceback.

    Args:
        app: the wrapped ASGI application.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            # A disconnected client can't receive a response.
            return


class Uploads:
    """Reads request bodies within limits.

    Args:
        max_bytes: max size of a body in bytes.
        at_once: max number of bodies in memory; further requests wait.
        seconds: time limit in seconds for the arrival of a body.
    """

    def __init__(self, max_bytes: int, at_once: int, seconds: float = UPLOAD_SECONDS):
        self.max_bytes, self.seconds = max_bytes, seconds
        self._slots = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Yields the body of a request, which occupies an upload slot until the block ends.

        Raises:
            UploadError: the body exceeds the max size (status 413; reading stops there), or does not arrive in time
                (status 408).
            ClientDisconnect: the client disconnects while it sends.
        """
        async with self._slots:
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
            if len(body) > self.max_bytes:
                limit = f"{self.max_bytes / 2**20:g} MiB" if self.max_bytes >= 2**20 else f"{self.max_bytes} bytes"
                raise UploadError(f"the request exceeds {limit}: send a smaller one", 413)
        return bytes(body)


def is_json(request: Request) -> bool:
    """Returns whether a request declares a JSON body, which other sites' pages can't do without a CORS preflight."""
    return request.headers.get("content-type", "").split(";")[0].strip() == "application/json"


def refuse(sentence: str, status: int) -> Response:
    """Returns a JSON response with a message and an error status."""
    return JSONResponse({"problem": sentence}, status)


def refuse_upload(request: Request, error: Exception) -> Response:
    """Returns the response to a request whose body was rejected."""
    return refuse(str(error), error.status if isinstance(error, UploadError) else 400)
