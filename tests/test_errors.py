"""A sentence can be printed, whatever a file brought into it."""

import pytest

from imagen_jax.errors import MAX_MESSAGE_LENGTH, UserError


def test_a_sentence_is_what_was_said():
    for sentence in ("é 猫 is 64×64: choose another", "two\nlines\tand a tab"):
        assert str(UserError(sentence)) == sentence


@pytest.mark.parametrize("told", ["\x1b[2J", "\x07", "\ud800", "\x9b", "\u202e", "\r"])
def test_what_commands_a_terminal_is_written_out(told):
    said = str(UserError(f"the file {told} is damaged"))
    assert told not in said and said.isprintable() and said.startswith("the file \\")
    said.encode()


def test_a_long_one_keeps_its_beginning_and_its_end():
    said = str(UserError(f"the file {'x' * 100_000} is damaged: mend it"))
    assert len(said) < MAX_MESSAGE_LENGTH + 10 and said.startswith("the file x") and said.endswith(": mend it")
