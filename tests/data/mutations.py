"""Mutated bytes, and what a test of them allows."""

import signal
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from imagen_jax.errors import UserError

SECONDS = 60


def often(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


@contextmanager
def in_time():
    def end(*_):
        raise AssertionError(f"it takes more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def allowing_user_error(named):
    """Lets a ``UserError`` pass whose message contains ``named``."""
    try:
        yield
    except UserError as error:
        if named not in str(error):
            raise


def edit(content, edits):
    """Applies edits, each a kind, a position and a length as shares of the content, and bytes."""
    for kind, position, share, new in edits:
        start = int(position * len(content))
        end = start + int(share * (len(content) - start))
        if kind == "flip":
            changed = bytes(a ^ b for a, b in zip(content[start:], new, strict=False))
            content = content[:start] + changed + content[start + len(changed) :]
        elif kind == "replace":
            content = content[:start] + new + content[start + len(new) :]
        elif kind == "insert":
            content = content[:start] + new + content[start:]
        elif kind == "cut":
            content = content[:start]
        elif kind == "remove":
            content = content[:start] + content[end:]
        else:
            content = content[:end] + content[start:end] + content[end:]
    return content


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "replace", "insert", "cut", "remove", "repeat"]),
        # Headers are at the beginning.
        st.one_of(st.floats(0, 0.1), st.floats(0, 1)),
        st.floats(0, 0.5),
        st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def mutated(contents):
    return st.builds(edit, st.sampled_from(contents), EDITS)
