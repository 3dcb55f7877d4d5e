"""The choice of a text encoder by name."""

import pytest

from imagen_jax.encoders.encoder import TEXT_ENCODERS, TextEncoder, load_text_encoder
from imagen_jax.errors import UserError
from tests.reference.clip_folders import write_clip_folder
from tests.reference.t5_folders import write_t5_folder


@pytest.mark.parametrize("name", sorted(TEXT_ENCODERS))
def test_every_encoder_keeps_to_the_interface_before_its_weights_are_read(name, tmp_path):
    folders = {"t5": write_t5_folder, "clip": write_clip_folder}
    options = {"folder": str(folders[name](tmp_path))} if name in folders else {}
    encoder = load_text_encoder(name, **options)
    assert isinstance(encoder, TextEncoder)
    assert encoder.width > 0 and encoder.max_tokens > 0
    assert not set(encoder.name) & set("/\\:* ")


def test_misspelt_name_is_corrected():
    with pytest.raises(UserError, match="'minilm'"):
        load_text_encoder("mini-lm")


def test_misspelt_option_is_corrected():
    with pytest.raises(UserError, match="'max_tokens'"):
        load_text_encoder("minilm", max_token=64)
