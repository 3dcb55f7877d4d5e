"""Keeps other sites' pages out: a browser says from which page a request comes, and only our own may ask.

Some browsers say it in ``Origin``, newer ones in ``Sec-Fetch-Site`` too, which a page can't change
(https://www.w3.org/TR/fetch-metadata/). What is no browser says neither, and is let in. A link to the page is followed.

Through a proxy, such as a notebook server's, a page has another address than the one it is asked by: whoever starts the
program names that address.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagen_jax.errors import UserError

OTHERS = ("cross-site", "same-site")
"""The second is another port of this machine."""

SAID = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
"""With every answer: it is what it says it is, and is shown in no other site's page."""


class OwnPagesOnly:
    """Refuses what other sites' pages ask, with status 403, and addresses that are none, with 400.

    Args:
        app: what answers all else.
        origins: addresses that a proxy shows our pages under, such as "https://hub.example".
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = ()):
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SAID)
            await send(message)

        if is_foreign(Headers(scope=scope), scope["method"], self.origins):
            await JSONResponse({"problem": "this page answers to its own pages alone"}, 403)(scope, receive, say)
        elif not scope["query_string"].isascii():
            # Starlette would decode it, and fail.
            await JSONResponse({"problem": "an address is of plain characters"}, 400)(scope, receive, say)
        else:
            await self.app(scope, receive, say)


def read_origin(text: str) -> str:
    """An address as browsers write it in ``Origin``: without a path, in small letters.

    Raises:
        UserError: it is none.
    """
    try:
        parts = urlsplit(text.strip().rstrip("/").lower())
        whole = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        whole = False
    if not whole or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise UserError(f"{text!a} is not where a proxy shows the page: write it as https://hub.example or with :port")
    return f"{parts.scheme}://{parts.netloc}"


def is_foreign(headers: Headers, method: str, origins: Collection[str] = ()) -> bool:
    """Whether a request comes from another site's page."""
    origin = headers.get("origin")
    if origin is not None and origin not in origins and origin.partition("://")[2] != headers.get("host"):
        return True
    is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") in OTHERS and not is_link
