"""Listening on a port of this machine until somebody presses Ctrl-C."""

import uvicorn
from starlette.applications import Starlette

from imagen_jax.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def names_of(host: str) -> tuple[str, ...]:
    """The names under which a page on ``host`` may be asked; "*" for any, once others are let in."""
    return LOOPBACK if host in LOOPBACK else ("*",)


def serve(app: Starlette, host: str, port: int) -> None:
    """Serves an application, and says where, until it is interrupted.

    Args:
        app: what answers.
        host: address to listen on.
        port: to listen on; 0 takes a free one.

    Raises:
        UserError: the port can't be listened on.
    """
    config = uvicorn.Config(app, host=host, port=port, log_level="warning")
    try:
        socket = config.bind_socket()
        # Now, so that a browser that is quick finds somebody, and a port that another program only bound is noticed.
        socket.listen(config.backlog)
    except (SystemExit, OSError):
        raise UserError(f"{host}:{port} can't be listened on: choose another --port") from None
    place = f"{'localhost' if host in LOOPBACK else host}:{socket.getsockname()[1]}"
    print(f"Open http://{place} in a browser; Ctrl-C ends.", flush=True)
    uvicorn.Server(config).run(sockets=[socket])
