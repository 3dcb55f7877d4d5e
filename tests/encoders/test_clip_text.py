"""A CLIP as the text encoder of a stage: its tokens carry the vector of a caption, in training and in sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import own_images
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.encoders.clip_text import load_clip_text
from imagen_jax.encoders.encoder import VectorEncoder, load_text_encoder
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.errors import UserError
from imagen_jax.train import train, train_to_end
from tests.end_to_end.smoke_runs import draw_own_images
from tests.reference.clip_folders import write_clip_folder

CAPTIONS = ["the cat", "a panda", "", "the panda and the cat and the panda and the cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_clip_folder(tmp_path_factory.mktemp("clip")))


def test_the_vectors_of_its_tokens_are_those_of_the_text_tower(folder):
    encoder = load_clip_text(folder)
    assert isinstance(encoder, VectorEncoder)
    text = encoder.encode(CAPTIONS)
    expected = load_clip(folder, model="").encode_texts(CAPTIONS)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True) * np.sqrt(expected.shape[1])
    np.testing.assert_allclose(encoder.vectors_of(text), expected, atol=1e-4)
    # A caption is the same whatever it is padded with.
    alone = encoder.encode(CAPTIONS[:1], 12)
    np.testing.assert_allclose(encoder.vectors_of(alone)[0], expected[0], atol=1e-4)
    assert text.embeddings.shape[2] == encoder.width and encoder.vector_width == expected.shape[1]


def test_fewer_tokens_keep_the_end_and_are_another_encoder(folder):
    whole, short = load_clip_text(folder), load_clip_text(folder, max_tokens=4)
    assert whole.name != short.name and short.encode(CAPTIONS).mask.shape[1] <= 4
    assert np.isfinite(short.vectors_of(short.encode(CAPTIONS))).all()
    for tokens in (1, 99, -1):
        with pytest.raises(UserError, match="max_tokens"):
            load_clip_text(folder, max_tokens=tokens)
    with pytest.raises(UserError, match="folder"):
        load_text_encoder("clip")


def make_config(folder, tmp_path, vector):
    config = own_images.get_config("base,smoke")
    images = tmp_path / "images"
    images.mkdir()
    config.data.update({"options": {"folder": str(draw_own_images(images))}, "data_dir": str(tmp_path / "data")})
    with config.unlocked():
        config.text.update({"encoder": "clip", "options": {"folder": folder}, "width": 64, "length": 12})
    config.stage.text_vector = vector
    config.training.update({"steps": 1, "checkpoint_every": 1, "preview_every": 0})
    config.preview.prompts = ()
    config.sampling.steps = 1
    return config


@pytest.mark.thorough
def test_a_stage_is_told_tokens_and_vector_and_samples_with_both(folder, tmp_path):
    config = make_config(folder, tmp_path, 24)
    run = tmp_path / "run"
    state = train_to_end(config, run)
    assert any("text_vector" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params))
    cascade = load_cascade([run])
    image = cascade.sample(["bar"], seed=1)[0]
    assert np.asarray(image).shape[-1] == 3
    requests = cascade._inputs if hasattr(cascade, "_inputs") else None
    assert requests is None or requests._encoder.vector_width == 24


@pytest.mark.thorough
def test_vectors_that_do_not_fit_are_told_before_training(folder, tmp_path):
    config = make_config(folder, tmp_path, 25)
    with pytest.raises(UserError, match="text_vector=25"):
        train(config, tmp_path / "run")
    config.stage.text_vector = 24
    config.text.length = 8
    with pytest.raises(UserError, match="max_tokens=8"):
        train(config, tmp_path / "run")


def test_mixed_prompts_have_mixed_vectors(folder):
    from imagen_jax.cascade.request_inputs import mix_vectors
    from imagen_jax.diffusion.conditions import Conditions, Vectors

    encoder = load_clip_text(folder)
    vectors = [encoder.vectors_of(encoder.encode([caption])) for caption in CAPTIONS[:2]]
    told = [Conditions(text_vector=Vectors(one, jnp.ones(1, bool))) for one in vectors]
    mixed = mix_vectors(*told, jnp.array([0.25]))
    np.testing.assert_allclose(mixed.text_vector.values, 0.75 * vectors[0] + 0.25 * vectors[1], rtol=1e-5)
