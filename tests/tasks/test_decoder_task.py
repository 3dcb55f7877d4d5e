"""A decoder that is told token ids and image embeddings: its batches, its training, and its samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.unclip import decoder_64
from imagen_jax.cascade import stage_loss
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.loading import load_stage
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.stage import abstract_batch, build_stage
from imagen_jax.cascade.stage_inputs import inputs_of_captions
from imagen_jax.cascade.stage_task import make_stage_task
from imagen_jax.encoders.caption_tokens import load_caption_tokenizer
from imagen_jax.errors import UserError
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement
from imagen_jax.tasks.stage_data import make_feed
from imagen_jax.train import train
from imagen_jax.training.workdir import read_config
from imagen_jax.weight_formats.formats import export_stage, import_stage
from tests.end_to_end.smoke_runs import draw_own_images, losses

PROMPTS = ["square number 3", "bar"]


def vectors_of(examples):
    """In the place of a CLIP: the mean colours of each image's rows, two to a row."""
    return examples["image"].mean(axis=2).reshape(len(examples["image"]), -1)[:, :16]


VECTORS = {"image_vector": vectors_of}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = decoder_64.get_config("paper,smoke")
    images, data = draw_own_images(tmp_path_factory.mktemp("images")), tmp_path_factory.mktemp("data")
    config.data.update({"source": "folder", "options": {"folder": str(images)}, "data_dir": str(data)})
    config.network.update({"channel_multipliers": (1,), "attention_resolutions": (8,)})
    config.training.update({"preview_every": 0, "steps": 1})
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    train(config, folder, vectors=VECTORS)
    return folder


@pytest.fixture(scope="module")
def cascade(workdir):
    return load_cascade([workdir], batch_size=2)


def test_batches_have_the_tokens_of_their_captions(config):
    stage, tokenizer = build_stage(config), load_caption_tokenizer("minilm")
    placement = batch_placement(make_mesh({"data": -1}), 8)
    batch = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=placement), abstract_batch(stage, 8)
    )
    captions = [f"bar number {number}" for number in range(7)] + [""]
    feed = make_feed(stage, None, batch, VECTORS, tokenizer)
    fed = feed({"image": np.zeros((8, 8, 8, 3), np.float32), "caption": captions})
    assert jax.tree.map(jnp.shape, fed) == jax.tree.map(lambda shape: shape.shape, batch)
    tokens = fed.conditions.tokens
    read = tokenizer.read(captions, 12)
    np.testing.assert_array_equal(tokens.ids[:, :8], read.ids)
    np.testing.assert_array_equal(tokens.mask, np.pad(read.mask, ((0, 0), (0, 4))))
    assert tokens.mask.sum(axis=1).tolist() == [3] * 7 + [0]


def test_training_drops_captions_and_image_embeddings_at_the_rates_of_the_paper(config, monkeypatch):
    seen = {}
    monkeypatch.setattr(stage_loss, "drop", lambda conditions, key, rates, together: seen.update(rates) or conditions)
    task = make_stage_task(config)
    params = jax.eval_shape(task.initial_params, jax.random.key(0))
    jax.eval_shape(task.loss, params, task.batch, jax.random.key(0))
    assert (seen["tokens"], seen["image_vector"]) == (0.5, 0.1) and not config.training.drop_together


@pytest.mark.thorough
def test_it_trains_and_remembers_its_tokenizer(workdir):
    assert np.isfinite(list(losses(workdir).values())).all()
    assert read_config(workdir)["fingerprints"]["tokenizer"] == load_caption_tokenizer("minilm").name


@pytest.mark.thorough
def test_the_cascade_samples_prompts(cascade):
    images = cascade.sample(PROMPTS, seed=1, guidance=2.0, negative_prompt="blue")
    assert [image.size for image in images] == [(8, 8)] * 2 and np.any(np.asarray(images[0]) != np.asarray(images[1]))


@pytest.mark.thorough
def test_an_export_comes_back_with_its_tokenizer(workdir, tmp_path):
    export_stage("imagen_jax", workdir, tmp_path / "exported", "float32")
    import_stage("imagen_jax", tmp_path / "exported", tmp_path / "imported")
    assert read_config(tmp_path / "imported")["fingerprints"] == read_config(workdir)["fingerprints"]
    assert load_stage(tmp_path / "imported").sha256 == load_stage(workdir).sha256


@pytest.mark.thorough
def test_prompts_negative_prompts_and_the_null_are_token_ids(cascade):
    requests = [ImageRequest(prompt) for prompt in PROMPTS]
    read = cascade.tokenizer.read([*PROMPTS, "a bar"], 12)
    plain = cascade.inputs(0, requests)
    np.testing.assert_array_equal(plain.conditions.tokens.ids[:, :8], read.ids[:2])
    assert not np.any(plain.unwanted.tokens.mask), "the null caption is the empty sequence"
    assert not np.any(plain.conditions.image_vector.present), "no prior has made any"
    empty = cascade.inputs(0, requests, negative_prompt="")
    jax.tree.map(np.testing.assert_array_equal, empty.unwanted, plain.unwanted)
    negative = cascade.inputs(0, requests, negative_prompt="a bar")
    np.testing.assert_array_equal(negative.unwanted.tokens.ids[:, :8], read.ids[[2, 2]])
    preview = inputs_of_captions(cascade.stages[0], None, PROMPTS, 0, tokenizer=cascade.tokenizer)
    jax.tree.map(np.testing.assert_array_equal, preview.conditions, plain.conditions)


@pytest.mark.thorough
def test_between_two_prompts_there_are_no_tokens(cascade):
    with pytest.raises(UserError, match="to_prompt"):
        cascade.inputs(0, [ImageRequest("a bar", to_prompt="a square", share=0.5)])


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"stage.tokens": False}, "text_transformer"),
        ({"network.text_transformer": None}, "text_transformer"),
        ({"text.length": 17}, "text.length"),
        ({"network.text_transformer.vocabulary": 100}, "30522"),
        ({"text.tokenizer": ""}, "text.tokenizer"),
    ],
)
def test_what_does_not_fit_is_refused(config, changes, facts, tmp_path):
    changed = config.copy_and_resolve_references()
    with changed.ignore_type():
        changed.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=facts):
        train(changed, tmp_path, vectors=VECTORS)


@pytest.mark.thorough
def test_another_tokenizer_than_that_of_training_is_refused(workdir, monkeypatch):
    from imagen_jax.encoders import minilm

    monkeypatch.setitem(minilm.SHA256, "tokenizer.json", "other")
    monkeypatch.setattr(minilm, "read_checked", lambda path, sha256: b"other")
    with pytest.raises(UserError, match="tokenizer"):
        load_cascade([workdir])
