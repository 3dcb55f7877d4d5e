"""Listening on a port of this machine until somebody presses Ctrl-C."""

from collections.abc import Collection
from types import FrameType
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from imagen_jax.errors import UserError
from imagen_jax.web.clients import Leavers
from imagen_jax.web.origins import OwnPagesOnly, read_origin

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_CONNECTIONS = 1000
"""At once; each holds some memory, and more are answered with status 503."""

SECONDS_TO_LEAVE = 3
"""For those who are being answered when the server is to end."""


def keep_out(host: str, origins: Collection[str] = ()) -> list[Middleware]:
    """What stands before a page: no other site's page is answered, nor who knows it by another name.

    Args:
        host: address that is listened on; once others are let in, the page may be asked by any name.
        origins: addresses that a proxy shows the page under, such as "https://hub.example".

    Raises:
        UserError: one of ``origins`` is no such address.
    """
    shown = [read_origin(one) for one in origins]
    names = [*LOOPBACK, *(str(urlsplit(one).hostname) for one in shown)] if host in LOOPBACK else ["*"]
    return [
        Middleware(Leavers),
        Middleware(TrustedHostMiddleware, allowed_hosts=names),
        Middleware(OwnPagesOnly, origins=shown),
    ]


class Server(uvicorn.Server):
    """A server that tells its application when it is to end, so that what is streamed ends too."""

    def __init__(self, config: uvicorn.Config, app: Starlette):
        super().__init__(config)
        self.app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes the first Ctrl-C or SIGTERM; a second Ctrl-C waits for nobody."""
        self.app.state.ends = True
        super().handle_exit(sig, frame)


def serve(app: Starlette, host: str, port: int) -> None:
    """Serves an application, and says where, until it is interrupted.

    Args:
        app: what answers.
        host: address to listen on.
        port: to listen on; 0 takes a free one.

    Raises:
        UserError: the port can't be listened on.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SECONDS_TO_LEAVE,
    )
    try:
        socket = config.bind_socket()
        # Now, so that a browser that is quick finds somebody, and a port that another program only bound is noticed.
        socket.listen(config.backlog)
    except (SystemExit, OSError):
        raise UserError(f"{host}:{port} can't be listened on: choose another --port") from None
    place = f"{'localhost' if host in LOOPBACK else host}:{socket.getsockname()[1]}"
    print(f"Open http://{place} in a browser; Ctrl-C ends.", flush=True)
    Server(config, app).run(sockets=[socket])
