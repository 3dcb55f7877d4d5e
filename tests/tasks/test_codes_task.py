"""A prior of codes learns a conditional distribution, trains as all else does, and draws from its workdir."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from configs import emoji_unclip
from configs.unclip import code_prior
from imagen_jax.array_types import Text
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.code_draws import draw_for_requests
from imagen_jax.cascade.code_stage import (
    CodeBatch,
    CodeStage,
    abstract_code_batch,
    build_code_stage,
    draw_for,
    initial_params,
    load_code_stage,
    make_code_loss,
)
from imagen_jax.cascade.experiment import read_codes_experiment
from imagen_jax.cascade.image_files import read_png_metadata, to_pixels
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.clip.codes import to_unit_channels
from imagen_jax.config.sections import MeshConfig
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.encoders.clip_text import load_clip_text
from imagen_jax.encoders.image_embeddings import open_image_embeddings
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.errors import UserError
from imagen_jax.models.code_prior import CodePrior
from imagen_jax.sampling.codes import CodeSettings
from imagen_jax.storage.paths import to_path
from imagen_jax.tasks.codes import count_code_operations, make_codes_task
from imagen_jax.tasks.codes_data import open_codes_data
from imagen_jax.tasks.training_data import open_agreed
from imagen_jax.train import train, train_to_end
from imagen_jax.training.compiled_training import make_training
from imagen_jax.training.monitoring.metrics import read_metrics
from tests.end_to_end.smoke_runs import draw_own_images, losses, plain
from tests.forked_programs import run_forked
from tests.reference.clip_folders import EMBEDDING, TEXT, write_clip_folder
from tests.small_networks import ONE_LEVEL

TOY = CodeStage(CodePrior(codes=3, buckets=4, similarity_buckets=4, text_length=2, width=32, layers=2, heads=2), 6, 5)


def toy_batch(generator, size):
    """Two captions: of the first, code 0 is 0 or 1 and code 1 its double; of the second, all codes are as similar."""
    second = generator.integers(0, 2, size)
    similarity = generator.integers(0, 4, size)
    first = generator.integers(0, 2, size)
    of_first = np.stack([first, 2 * first, 3 - first], axis=1)
    codes = np.where(second[:, None] == 1, similarity[:, None], of_first)
    return CodeBatch(jnp.asarray(similarity, jnp.int32), jnp.asarray(codes, jnp.int32), toy_conditions(second))


def toy_conditions(second):
    told = np.where(np.asarray(second)[:, None] == 1, 1.0, -1.0)
    text = Text(jnp.asarray(told[:, :, None] * np.ones((1, 2, 5)), jnp.float32), jnp.ones((len(told), 2), bool))
    vector = Vectors(jnp.asarray(told * np.ones((1, 6)), jnp.float32), jnp.ones(len(told), bool))
    return Conditions(text=text, text_vector=vector)


@pytest.fixture(scope="module")
def toy_params():
    optimizer, loss = optax.adam(optax.cosine_decay_schedule(5e-3, 400)), make_code_loss(TOY, 0.1)

    @jax.jit
    def step(params, state, batch, key):
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, key)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, (value, metrics)

    params = jax.jit(lambda key: initial_params(TOY, key))(jax.random.key(0))
    state, generator = optimizer.init(params), np.random.default_rng(0)
    for number in range(400):
        params, state, (value, metrics) = step(params, state, toy_batch(generator, 64), jax.random.key(number))
    np.testing.assert_allclose(value, (metrics["similarity_loss"] + 3 * metrics["code_loss"]) / 4, rtol=1e-5)
    return params


@pytest.mark.thorough
def test_a_tiny_prior_learns_a_conditional_distribution(toy_params):
    # The least loss: ln 4 for the similarity; for the codes ln 2 for the first caption, and nothing for the second.
    loss = jax.jit(make_code_loss(TOY, 0.0))
    guessing, _ = loss(
        jax.tree.map(jnp.zeros_like, toy_params), toy_batch(np.random.default_rng(0), 512), jax.random.key(0)
    )
    assert guessing == pytest.approx(np.log(4), rel=1e-6)
    _, metrics = loss(toy_params, toy_batch(np.random.default_rng(1), 512), jax.random.key(0))
    assert metrics["similarity_loss"] == pytest.approx(np.log(4), abs=0.05)
    assert metrics["code_loss"] == pytest.approx(np.log(2) / 6, abs=0.05)
    second = np.arange(400) % 2
    keys = jax.random.split(jax.random.key(7), 400)
    drawn = draw_for(TOY.network, CodeSettings(guidance=1.0), toy_params, toy_conditions(second), keys)
    codes, similarity = np.asarray(drawn.codes), np.asarray(drawn.similarity)
    # The top half of four equal buckets, which the prediction has up to 0.05.
    assert np.mean(similarity >= 2) > 0.95
    first = codes[second == 0]
    right = (first[:, 1] == 2 * first[:, 0]) & (first[:, 2] == 3 - first[:, 0]) & (first[:, 0] < 2)
    assert right.mean() > 0.95 and 0.35 < first[:, 0].mean() < 0.65
    assert (codes[second == 1] == similarity[second == 1, None]).mean() > 0.95


@pytest.mark.thorough
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_draw_depends_on_its_own_key_and_caption_alone(toy_params, guidance):
    keys, second, order = jax.random.split(jax.random.key(1), 400), np.arange(400) % 2, np.arange(400)[::-1]
    settings = CodeSettings(guidance=guidance)
    whole = draw_for(TOY.network, settings, toy_params, toy_conditions(second), keys)
    second[:100] = 0
    again = draw_for(TOY.network, settings, toy_params, toy_conditions(second[order]), keys[order])
    np.testing.assert_array_equal(again.codes[order][100:], whole.codes[100:])


def test_the_published_size_is_what_the_docstring_says():
    task = make_codes_task(code_prior.get_config())
    shapes = jax.eval_shape(task.initial_params, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count / 1e9 == pytest.approx(0.81, abs=0.005)
    assert shapes["positions"].shape == (384, 1664)
    transformer = sum(leaf.size for leaf in jax.tree.leaves(shapes["transformer"]))
    assert transformer == pytest.approx(12 * 24 * 1664**2, rel=0.002)
    stage = build_code_stage(read_codes_experiment(code_prior.get_config()))
    assert task.batch == abstract_code_batch(stage, 4096)


@pytest.mark.thorough
def test_a_step_of_the_published_size_has_the_operations_of_its_kernels_and_is_sharded():
    config = read_codes_experiment(code_prior.get_config())
    layers, width, context = 24, 1664, 384
    # Two operations for each kernel entry and position, and twice as many for the gradient; queries by keys by values.
    expected = 6 * 12 * layers * width**2 * context + 12 * layers * context**2 * width
    assert count_code_operations(config) / 4096 == pytest.approx(expected, rel=0.01)
    config = replace(config, mesh=MeshConfig(fsdp=4, tensor=2))
    training = make_training(make_codes_task(config))
    training.lower()
    query = training.state.params["transformer"]["layer_0"]["query"]["kernel"]
    assert query.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor", None)


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        ("codes", {"components": 9}, "components"),
        ("codes", {"top_share": 0.0}, "top_share"),
        ("codes", {"bucket": 9}, "bucket"),
        ("training", {"caption_dropout": 1.5}, "caption_dropout"),
        ("network", {"name": "lstm"}, "lstm"),
        ("network", {"depth": 3}, "depth"),
    ],
)
def test_what_contradicts_is_told_before_training(tmp_path, section, values, key):
    config = code_prior.get_config("as_printed,smoke")
    with config.unlocked():
        config[section].update(values)
    with pytest.raises(UserError, match=key):
        train(config, tmp_path / "run")


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    images, clip = folder / "images", folder / "clip"
    images.mkdir()
    draw_own_images(images)
    write_clip_folder(clip)

    def make(**codes):
        config = code_prior.get_config("as_printed,smoke")
        config.data.update({"source": "folder", "options": {"folder": str(images)}, "data_dir": str(folder / "sets")})
        config.data.update({"resolution": 32, "validation_fraction": 0.2})
        config.codes.update({"clip": str(clip), "channels": EMBEDDING, "text_width": TEXT["hidden_size"]})
        config.codes.update({"text_length": 12, **codes})
        return config

    return make


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("codes")
    return workdir, train_to_end(make_config(), workdir)


@pytest.mark.thorough
def test_the_run_has_losses_and_resumes_bit_for_bit(make_config, trained, tmp_path):
    workdir, state = trained
    lines = read_metrics(workdir)
    assert {"loss", "code_loss", "similarity_loss"} <= lines[-1].keys() and len(lines) == 4
    cut = tmp_path / "cut"
    shutil.copytree(workdir, cut, ignore=shutil.ignore_patterns("4"))
    (cut / "metrics.jsonl").write_text("".join((workdir / "metrics.jsonl").read_text().splitlines(True)[:2]))
    resumed = train_to_end(make_config(guidance=3.0), cut)
    for one, other in zip(plain(state), plain(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert losses(cut) == losses(workdir)
    with pytest.raises(UserError, match="components"):
        train(make_config(components=5), cut)


def test_a_batch_has_the_codes_and_captions_of_its_images(make_config, tmp_path):
    config = make_config()
    batch = make_training(make_codes_task(config)).batch
    data = open_codes_data(read_codes_experiment(config), to_path(tmp_path), batch)
    examples = next(data.batches)
    fed = data.feed(examples)
    assert jax.tree.map(lambda array: (array.shape, array.dtype), fed) == jax.tree.map(
        lambda array: (array.shape, array.dtype), batch
    )
    clip = load_clip(config.codes.clip, model="")
    captions = to_unit_channels(clip.encode_texts(list(examples["caption"])))
    # States are stored in bfloat16.
    np.testing.assert_allclose(fed.conditions.text_vector.values, captions, atol=0.05)
    store = open_image_embeddings(open_agreed(read_codes_experiment(config).data).folders, clip.image)
    images = to_unit_channels(store.lookup(list(examples["key"]), examples["mirrored"]))
    np.testing.assert_array_equal(fed.codes, data.book.to_codes(images))
    products = np.sum(images * np.asarray(fed.conditions.text_vector.values), axis=1)
    edges = data.book.similarity_edges
    for code, product in zip(np.asarray(fed.similarity), products, strict=True):
        assert edges[code] - 1e-3 <= np.clip(product, edges[0], edges[-1]) <= edges[code + 1] + 1e-3


@pytest.mark.thorough
def test_a_workdir_draws_embeddings_for_captions(make_config, trained):
    workdir, _ = trained
    loaded = load_code_stage(to_path(workdir))
    assert loaded.step == 4 and loaded.settings == CodeSettings()
    encoder = load_clip_text(make_config().codes.clip, 12)
    assert encoder.name == loaded.text_encoder
    text = encoder.encode(["a bar", "the cat"])
    conditions = Conditions(text=text, text_vector=Vectors(encoder.vectors_of(text), jnp.ones(2, bool)))
    keys = jax.random.split(jax.random.key(0), 2)
    drawn = loaded.draw(conditions, keys)
    assert drawn.shape == (2, EMBEDDING)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), EMBEDDING**0.5, rtol=1e-5)
    np.testing.assert_array_equal(loaded.draw(conditions, keys), drawn)
    with pytest.raises(UserError, match="temperature"):
        loaded.draw(conditions, keys, CodeSettings(temperature=0.0))


@pytest.mark.thorough
def test_sample_draws_with_it_before_a_decoder(make_config, trained, tmp_path, monkeypatch):
    workdir, _ = trained
    monkeypatch.chdir(tmp_path)
    config = make_config()
    decoder = emoji_unclip.get_config("decoder,smoke")
    with decoder.unlocked():
        decoder.data = config.data
        decoder.text.update({"width": TEXT["hidden_size"], "length": 12, "options": {}})
        decoder.embedding.clip = config.codes.clip
        decoder.stage.image_vector = EMBEDDING
    decoder.network.update(ONE_LEVEL)
    decoder.data.resolution = 32
    decoder.training.update({"batch_size": 8, "preview_every": 0})
    decoder.preview.prompts = ()
    train(decoder, tmp_path / "decoder")
    done = run_forked(
        "imagen_jax", "sample", f"--stages={workdir},decoder", "--steps=2", "--guidance=1", "--prompt=a bar",
        "--conditioning=prior,caption", "--out=out", "--nogrid",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    images = {read_png_metadata(file)["conditioning"]: file for file in (tmp_path / "out").glob("*.png")}
    cascade, prior = (
        load_cascade([tmp_path / "decoder"], {"guidance": 1.0, "steps": 2}),
        load_code_stage(to_path(workdir)),
    )
    (request,) = draw_for_requests(prior, cascade, [ImageRequest("a bar")])
    assert np.linalg.norm(request.vector) == pytest.approx(EMBEDDING**0.5, rel=1e-5)
    ((expected,),) = cascade.draw([request])
    np.testing.assert_array_equal(np.asarray(Image.open(images["prior"])), to_pixels(expected)[0])
    assert np.abs(np.asarray(Image.open(images["caption"])).astype(int) - to_pixels(expected)[0]).max() > 0


@pytest.mark.thorough
def test_a_clip_of_other_sizes_is_told(make_config, tmp_path):
    for changes in ({"channels": 16}, {"text_length": 50}, {"clip": ""}, {"fitted": 0}, {"components": 25}):
        with pytest.raises(UserError, match=r"config\.codes|components"):
            train(make_config(**changes), tmp_path / "run")
