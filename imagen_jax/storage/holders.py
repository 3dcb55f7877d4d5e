"""Who holds a folder, as its ``.lock`` says and as others are told."""

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
    """This process, as others are told of it; the token is of this taking alone."""
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "token": secrets.token_hex(8)}


def read_holder(content: bytes) -> dict[str, Any]:
    """Who has a folder, by what lies in its file; nothing where that can't be read, as at the moment it is taken."""
    try:
        holder = parse_json(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def explain_held(folder: Path, flag: str, holder: dict[str, Any]) -> ForNowError:
    """The refusal of a folder that another process has."""
    who = "another process"
    if {"host", "pid", "since"} <= holder.keys():
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    return ForNowError(f"{folder} is in use by {who}: wait until it ends, stop it, or choose another {flag}")


def explain_gone(folder: Path) -> UserError:
    """The error of a folder that is no longer where it was."""
    return UserError(
        f"{folder} was deleted, moved or replaced while this process wrote there: put it back if you moved it, and run "
        "the same command again"
    )
