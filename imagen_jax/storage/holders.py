"""The holder of a folder lock: its description in ``.lock``, and error messages for other processes."""

import datetime
import os
import secrets
import socket
from typing import Any

from imagen_jax.errors import ForNowError, UserError
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path

LOCK = ".lock"


def describe_holder() -> dict[str, Any]:
    """Returns a description of this process: host, process ID, time, and a new random token for this lock."""
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "token": secrets.token_hex(8)}


def read_holder(content: bytes) -> dict[str, Any]:
    """Parses the content of a lock file.

    Returns:
        The holder's description; empty if the content is invalid, for example while the holder is writing it.
    """
    try:
        holder = parse_json(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def explain_held(folder: Path, flag: str, holder: dict[str, Any]) -> ForNowError:
    """Returns the error for a folder that another process holds."""
    who = "another process"
    if {"host", "pid", "since"} <= holder.keys():
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    return ForNowError(f"{folder} is in use by {who}: wait until it ends, stop it, or choose another {flag}")


def explain_gone(folder: Path) -> UserError:
    """Returns the error for a folder that was deleted, moved or replaced."""
    return UserError(
        f"{folder} was deleted, moved or replaced while this process wrote there: put it back if you moved it, and run "
        "the same command again"
    )
