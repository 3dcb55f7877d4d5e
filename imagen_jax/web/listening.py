"""Serves an application on a port of this machine until Ctrl-C."""

import socket
from collections.abc import Collection
from types import FrameType
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from imagen_jax.errors import UserError
from imagen_jax.web.clients import DisconnectGuard
from imagen_jax.web.origins import OwnPagesOnly, read_origin

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_CONNECTIONS = 1000
"""Max number of simultaneous connections. Each takes some memory; further ones get status 503."""

SECONDS_TO_LEAVE = 3
"""Time limit in seconds for open requests when the server shuts down."""


def keep_out(host: str, origins: Collection[str] = ()) -> list[Middleware]:
    """Returns the middleware that rejects requests from other sites' pages and requests for other host names.

    Args:
        host: address that the server listens on; unless it is a loopback address, all host names are accepted.
        origins: public addresses of the page behind a proxy, such as "https://hub.example".

    Raises:
        UserError: an entry of ``origins`` is no such address.
    """
    shown = [read_origin(one) for one in origins]
    names = [*LOOPBACK, *(str(urlsplit(one).hostname) for one in shown)] if host in LOOPBACK else ["*"]
    return [
        Middleware(DisconnectGuard),
        Middleware(TrustedHostMiddleware, allowed_hosts=names),
        Middleware(OwnPagesOnly, origins=shown),
    ]


class Server(uvicorn.Server):
    """A server that sets ``app.state.ends`` when it is about to stop, so that streamed responses end too."""

    def __init__(self, config: uvicorn.Config, app: Starlette):
        super().__init__(config)
        self.app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Starts the shutdown on Ctrl-C or SIGTERM; a second Ctrl-C stops without waiting for open requests."""
        self.app.state.ends = True
        super().handle_exit(sig, frame)


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """Returns a socket that listens. uvicorn's own would print an error besides ours.

    Args:
        host: address to listen on.
        port: port to listen on; 0 selects a free one.
        backlog: max number of connections that wait.

    Raises:
        UserError: it can't listen on the port.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        # This fails if another program has bound the port without listening on it.
        listening.listen(backlog)
    except OSError:
        listening.close()
        raise UserError(f"the server can't listen on {host}:{port}: choose another --port") from None
    return listening


def serve(app: Starlette, host: str, port: int) -> None:
    """Prints the address of an application and serves it until it is interrupted.

    Args:
        app: the application.
        host: address to listen on.
        port: port to listen on; 0 selects a free one.

    Raises:
        UserError: the server can't listen on the port.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SECONDS_TO_LEAVE,
    )
    # Listen before the address is printed, so that early requests succeed.
    listening = listen(host, port, config.backlog)
    address = f"{'localhost' if host in LOOPBACK else host}:{listening.getsockname()[1]}"
    print(f"Open http://{address} in a browser. Press Ctrl-C to stop.", flush=True)
    Server(config, app).run(sockets=[listening])
