"""Rejects requests from other sites' pages: only the server's own page may send requests.

Some browsers name the page behind a request in ``Origin``. Newer ones also send ``Sec-Fetch-Site``, which a page can't
change (https://www.w3.org/TR/fetch-metadata/). Programs other than browsers send neither header and are accepted. Links
to the page work from any site.

Behind a proxy, such as a notebook server's, the browser's address of the page differs from the server's own. The user
then passes the public address with ``--origins``.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagen_jax.errors import UserError

OTHERS = ("cross-site", "same-site")
"""Rejected values of ``Sec-Fetch-Site``; another port of this machine counts as "same-site"."""

SAFETY_HEADERS = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
"""Headers of every response: browsers may not guess its type, nor load it into another site's page."""

FOREIGN = "requests of other sites' pages are rejected: open this page itself, or name its address in --origins"
NOT_ASCII = "the query of the address has non-ASCII characters: leave them out"


class OwnPagesOnly:
    """ASGI middleware that rejects requests from other sites' pages (status 403) and non-ASCII queries (status 400).

    Args:
        app: the wrapped ASGI application.
        origins: public addresses of the page behind a proxy, such as "https://hub.example".
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = ()):
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SAFETY_HEADERS)
            await send(message)

        if is_foreign(Headers(scope=scope), scope["method"], self.origins):
            await JSONResponse({"problem": FOREIGN}, 403)(scope, receive, send_safely)
        elif not scope["query_string"].isascii():
            # Starlette fails to decode such a query string.
            await JSONResponse({"problem": NOT_ASCII}, 400)(scope, receive, send_safely)
        else:
            await self.app(scope, receive, send_safely)


def read_origin(text: str) -> str:
    """Returns an address in the form of the ``Origin`` header: without a path, in lower case.

    Raises:
        UserError: the text is no such address.
    """
    try:
        parts = urlsplit(text.strip().rstrip("/").lower())
        whole = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        whole = False
    if not whole or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise UserError(
            f"--origins={text!a} is not a public address of the page: write it as https://hub.example or with :port"
        )
    return f"{parts.scheme}://{parts.netloc}"


def is_foreign(headers: Headers, method: str, origins: Collection[str] = ()) -> bool:
    """Returns whether a request comes from another site's page."""
    origin = headers.get("origin")
    if origin is not None and origin not in origins and origin.partition("://")[2] != headers.get("host"):
        return True
    is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") in OTHERS and not is_link
