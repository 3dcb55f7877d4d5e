"""The flags of several hosts: all or none, and what they lead to."""

import pytest
from absl import flags
from absl.testing import flagsaver

from imagen_jax.errors import UserError
from imagen_jax.runtime import distributed_flags, processes


@pytest.fixture
def joined(monkeypatch):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    calls = []
    monkeypatch.setattr(processes, "join", lambda *arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({}, []),
        ({"distributed": True}, [(None, None, None, 100.0)]),
        (
            {"coordinator": "10.0.0.2:8476", "process_count": 4, "process_index": 3, "heartbeat_seconds": 20.0},
            [("10.0.0.2:8476", 4, 3, 20.0)],
        ),
    ],
)
def test_processes_join_only_when_flagged(joined, given, arguments):
    with flagsaver.flagsaver(**given):
        distributed_flags.join_as_flagged()
    assert joined == arguments


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"distributed": True, "process_count": 2}, "--distributed .*--process_count"),
        ({"coordinator": "a:1"}, "--process_count.*--process_index"),
        ({"process_index": 0, "process_count": 2}, "--coordinator"),
        ({"coordinator": "a", "process_count": 2, "process_index": 0}, "HOST:PORT"),
        ({"coordinator": "a:1", "process_count": 2, "process_index": 2}, r"--process_index=2 .*\b1\b.*2"),
    ],
)
def test_incomplete_flags_are_an_error(joined, given, words):
    with flagsaver.flagsaver(**given), pytest.raises(UserError, match=words):
        distributed_flags.join_as_flagged()
    assert joined == []
