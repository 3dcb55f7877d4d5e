"""Batching, padding and truncation, with a network that only spells out its input."""

import logging
import re

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.encoders.batched_encoder import BatchedEncoder, EncoderParts
from imagen_jax.errors import UserError

CLOSING = 1


def make_encoder(max_tokens=20, traced=None):
    """An encoder whose tokens are letters and a closing 1, and whose embeddings are (id, id + 1) everywhere."""
    shapes = [] if traced is None else traced

    def apply(parameters, ids, mask):
        shapes.append(ids.shape)
        return parameters["one"] * jnp.stack([ids, ids + 1], axis=-1).astype(jnp.bfloat16)

    def tokenize(captions):
        return [[*map(ord, caption), CLOSING] for caption in captions]

    return BatchedEncoder(
        "spelling", 2, max_tokens, lambda: EncoderParts(tokenize, apply, {"one": jnp.ones((1, 1, 1))})
    )


def test_each_token_is_embedded_at_its_position_and_padding_is_zero():
    text = make_encoder().encode(["ab", "c"], length=4)
    np.testing.assert_array_equal(text.embeddings[..., 0], [[97, 98, 1, 0], [99, 1, 0, 0]])
    np.testing.assert_array_equal(text.embeddings[..., 1], [[98, 99, 2, 0], [100, 2, 0, 0]])
    np.testing.assert_array_equal(text.mask, [[True, True, True, False], [True, True, False, False]])
    assert text.embeddings.dtype == jnp.float32


def test_order_is_kept_across_batches():
    captions = [chr(97 + index % 26) * (1 + index % 7) for index in range(150)]
    text = make_encoder().encode(captions)
    assert text.embeddings.shape == (150, 8, 2)
    spelled = [
        "".join(chr(int(i)) for i in row[mask][:-1])
        for row, mask in zip(*map(np.asarray, (text.embeddings[..., 0], text.mask)), strict=True)
    ]
    assert spelled == captions


def test_many_shapes_of_input_compile_few_times():
    traced = []
    encoder = make_encoder(traced=traced)
    for count in range(1, 30):
        encoder.encode(["x" * (1 + count % 19)] * count)
    assert len(traced) <= 9


def test_length_beyond_the_limit_only_pads():
    assert make_encoder(max_tokens=5).encode(["abc"], length=9).embeddings.shape == (1, 9, 2)


@pytest.mark.parametrize(("max_tokens", "length"), [(4, None), (4, 6), (20, 4)])
def test_truncation_keeps_the_closing_token_and_warns(max_tokens, length, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        text = make_encoder(max_tokens).encode(["abcdef", "ab"], length)
    np.testing.assert_array_equal(text.embeddings[:, :4, 0], [[97, 98, 99, 1], [97, 98, 1, 0]])
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.search(r"'abcdef'.* 7 .* 4\b", message)


def test_nothing_is_loaded_before_the_first_caption():
    loads = []
    encoder = BatchedEncoder("lazy", 2, 20, lambda: loads.append("once") or make_encoder().load_parts())
    assert (encoder.name, encoder.width, encoder.max_tokens, loads) == ("lazy", 2, 20, [])
    encoder.encode(["a"])
    encoder.encode(["b"])
    assert loads == ["once"]


def test_no_caption_is_refused():
    with pytest.raises(UserError):
        make_encoder().encode([])


def test_length_without_room_is_refused():
    with pytest.raises(UserError, match=r"\b0 tokens"):
        make_encoder().encode(["a"], length=0)
