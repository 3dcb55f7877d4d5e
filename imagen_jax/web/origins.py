"""Keeps other sites' pages out: a browser says from which page a request comes, and only our own may ask.

Some browsers say it in ``Origin``, newer ones in ``Sec-Fetch-Site`` too, which a page can't change
(https://www.w3.org/TR/fetch-metadata/). What is no browser says neither, and is let in. A link to the page is followed.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OTHERS = ("cross-site", "same-site")
"""The second is another port of this machine."""

SAID = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
"""With every answer: it is what it says it is, and is shown in no other site's page."""


class OwnPagesOnly:
    """Refuses what other sites' pages ask, with status 403, and addresses that are none, with 400.

    Args:
        app: what answers all else.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SAID)
            await send(message)

        if is_foreign(Headers(scope=scope), scope["method"]):
            await JSONResponse({"problem": "this page answers to its own pages alone"}, 403)(scope, receive, say)
        elif not scope["query_string"].isascii():
            # Starlette would decode it, and fail.
            await JSONResponse({"problem": "an address is of plain characters"}, 400)(scope, receive, say)
        else:
            await self.app(scope, receive, say)


def is_foreign(headers: Headers, method: str) -> bool:
    """Whether a request comes from another site's page."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return True
    is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") in OTHERS and not is_link
