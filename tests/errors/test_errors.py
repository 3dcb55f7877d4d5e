"""A sentence can be printed, whatever a file brought into it."""

import pytest

from imagen_jax.errors import MAX_MESSAGE_LENGTH, UserError


def test_a_printable_message_is_unchanged():
    for sentence in ("é 猫 is 64×64: choose another", "two\nlines\tand a tab"):
        assert str(UserError(sentence)) == sentence


@pytest.mark.parametrize("text", ["\x1b[2J", "\x07", "\ud800", "\x9b", "\u202e", "\r"])
def test_control_characters_are_escaped(text):
    message = str(UserError(f"the file {text} is damaged"))
    assert text not in message and message.isprintable() and message.startswith("the file \\")
    message.encode()


def test_a_long_one_keeps_its_beginning_and_its_end():
    message = str(UserError(f"the file {'x' * 100_000} is damaged: fix it"))
    assert len(message) < MAX_MESSAGE_LENGTH + 10
    assert message.startswith("the file x") and message.endswith(": fix it")
