"""A CLIP trains as all else does: measured on held-out pairs, resumed bit for bit, ended if it no longer improves."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import emoji_clip
from configs.clip import published
from imagen_jax.cascade.experiment import read_clip_experiment
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.errors import UserError
from imagen_jax.tasks.clip import clip_task
from imagen_jax.tasks.clip_data import number_captions, tokens_for
from imagen_jax.tasks.clip_hooks import FILE_NAME, best_step
from imagen_jax.tasks.clip_start import resize_positions
from imagen_jax.tasks.clip_tokenizer import train_tokenizer
from imagen_jax.train import train, train_to_end
from imagen_jax.training.monitoring.metrics import read_metrics
from tests.end_to_end.smoke_runs import draw_own_images, losses, plain
from tests.tiers import thorough_except


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_own_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def make_config(images, data_dir):
    def make(variant="scratch", **training):
        config = emoji_clip.get_config(f"{variant},smoke")
        config.data.update({"source": "folder", "options": {"folder": str(images)}, "data_dir": str(data_dir)})
        config.training.update(training)
        return config

    return make


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("clip")
    return workdir, train_to_end(make_config(), workdir)


def test_the_run_has_losses_measurements_and_weights(trained):
    workdir, state = trained
    assert int(state.step) == 4
    lines = read_metrics(workdir)
    assert {"loss", "logit_scale", "recall_of_images", "recall_of_captions"} <= lines[-1].keys()
    # Eight pairs of random embeddings: near the loss of guessing, at a scale of 1/0.07.
    assert 1.0 < lines[0]["loss"] < 8.0 and lines[0]["logit_scale"] == pytest.approx(1 / 0.07, rel=0.01)
    measured = read_metrics(workdir, FILE_NAME)
    assert [line["step"] for line in measured] == [2, 4]
    assert all(0 <= measured[-1][f"{way}_recall_at_5"] <= 1 for way in ("image_to_text", "text_to_image"))


def test_the_exported_weights_are_those_of_the_average(trained):
    workdir, state = trained
    clip = load_clip(str(workdir), model="")
    embedded = clip.encode_texts(["square number 3", "bar number 2"])
    assert embedded.shape == (2, 8) and np.isfinite(embedded).all()
    expected = np.exp(float(state.ema_params["logit_scale"]))
    assert clip.logit_scale == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("variant", ["scratch", pytest.param("frozen", marks=pytest.mark.thorough)])
def test_an_interrupted_run_resumes_bit_for_bit(make_config, trained, tmp_path, variant):
    whole_dir, whole = trained if variant == "scratch" else (tmp_path / "whole", None)
    if whole is None:
        whole = train_to_end(make_config(variant), whole_dir)
    cut = tmp_path / "cut"
    shutil.copytree(whole_dir, cut, ignore=shutil.ignore_patterns("4"))
    assert [path.name for path in (cut / "checkpoints").iterdir()] == ["2"]
    (cut / "metrics.jsonl").write_text("".join((whole_dir / "metrics.jsonl").read_text().splitlines(True)[:2]))
    resumed = train_to_end(make_config(variant), cut)
    for one, other in zip(plain(whole), plain(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert losses(cut) == losses(whole_dir)
    assert read_metrics(cut, FILE_NAME) == read_metrics(whole_dir, FILE_NAME)


@pytest.mark.thorough
def test_frozen_features_train_heads_alone(make_config, tmp_path):
    state = train_to_end(make_config("frozen", steps=2), tmp_path)
    assert {name: set(state.params[name]) for name in ("image", "text")} == {
        "image": {"projection"},
        "text": {"projection"},
    }
    clip = load_clip(str(tmp_path), model="")
    pixels = np.full((20, 20, 3), 200, np.uint8)
    prepared = clip.image.prepare(pixels)
    features = clip.image.extract(clip.image.weights, jax.numpy.asarray(prepared)[None])
    assert features.pooled.shape == (1, 8) and clip.encode_texts(["a bar"]).shape == (1, 8)


@pytest.mark.thorough
def test_a_training_that_no_longer_improves_ends_and_keeps_its_best(make_config, tmp_path):
    config = make_config(steps=40, evaluate_every=1, patience=2, checkpoint_every=10)
    # A rate of almost nothing: the first measurement stays the best.
    config.optimizer.update({"learning_rate": 1e-12, "decay_steps": 50})
    state = train_to_end(config, tmp_path)
    ended = int(state.step)
    scores = {line["step"]: line["retrieval"] for line in read_metrics(tmp_path, FILE_NAME)}
    assert ended < 10 and best_step(scores) == 1
    again = train_to_end(config, tmp_path)
    assert int(again.step) == ended
    # With more patience it continues.
    config.training.update({"patience": 5})
    assert int(train_to_end(config, tmp_path).step) > ended


@pytest.mark.thorough
def test_accumulation_has_the_gradient_of_the_whole_batch(make_config):
    gradients = []
    for pieces in (1, 4):
        config = make_config(gradient_accumulation=pieces)
        # Each part has its own dropout.
        config.image_tower.patch_dropout = 0.0
        task = clip_task(config)
        params = task.initial_params(jax.random.key(0))
        gradients.append(task.differentiate(params, jax.tree.map(random_like, task.batch), jax.random.key(1)))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[0]))
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * largest)


def random_like(shape):
    generator = np.random.default_rng(0)
    if shape.dtype == np.int32:
        return jax.numpy.asarray(generator.integers(0, 290, shape.shape), np.int32)
    return jax.numpy.asarray(generator.uniform(-1, 1, shape.shape), np.float32)


@pytest.mark.thorough
def test_the_scale_stays_below_its_limit(make_config, tmp_path):
    config = make_config(steps=3, evaluate_every=0)
    config.clip.max_scale = 10.0
    state = train_to_end(config, tmp_path)
    assert float(state.params["logit_scale"]) <= np.log(10.0) + 1e-6


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        ("training", {"batch_size": 1}, "batch_size"),
        ("training", {"sam_share": 4}, "sam_rho"),
        ("training", {"sam_rho": 0.1, "sam_share": 3}, "sam_share"),
        ("training", {"sam_rho": -1.0}, "sam_rho"),
        ("training", {"patience": 2, "evaluate_every": 0}, "evaluate_every"),
        ("clip", {"loss": "hinge"}, "clip.loss"),
        ("clip", {"equal_captions": "maybe"}, "equal_captions"),
        ("text_tower", {"name": "lstm"}, "lstm"),
        ("image_tower", {"depth": 3}, "depth"),
        ("text_tower", {"vocabulary": 20}, "vocabulary"),
    ],
)
def test_what_contradicts_is_told_before_training(make_config, tmp_path, section, values, key):
    config = make_config()
    with config.unlocked():
        config[section].update(values)
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        train(config, tmp_path / "run")


def test_shares_of_sam_cannot_be_sharded():
    config = published.get_config("h16,smoke")
    config.mesh.fsdp = 2
    with pytest.raises(UserError, match="fsdp"):
        clip_task(config)


@pytest.mark.parametrize("variant", thorough_except(["b32", "h14"], published.VARIANTS))
def test_published_sizes_have_the_printed_number_of_parameters(variant):
    millions = {"b32": 151.3, "b16": 149.6, "l14": 427.6, "l14_336": 427.9, "h14": 986.1}
    task = clip_task(published.get_config(variant))
    counted = sum(
        int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(jax.eval_shape(task.initial_params, jax.random.key(0)))
    )
    if variant in millions:
        assert counted / 1e6 == pytest.approx(millions[variant], abs=0.06)
    assert read_clip_experiment(published.get_config(variant)).clip.embedding == task.saved["clip"]["embedding"]


def test_equal_captions_have_equal_numbers_on_all_hosts():
    numbers = number_captions(["a cat", "a dog", "a cat", "ü"])
    assert numbers.dtype == np.int32 and numbers[0] == numbers[2] and len(set(numbers.tolist())) == 3


def test_long_captions_keep_their_end_and_are_told_once(caplog):
    captions_of = tokens_for(lambda captions: [[1, *range(10, 10 + len(caption)), 99] for caption in captions], 6)
    ids = captions_of(["abc", "abcdefgh", "abcdefghi"])
    np.testing.assert_array_equal(ids, [[1, 10, 11, 12, 99, 0], [1, 10, 11, 12, 13, 99], [1, 10, 11, 12, 13, 99]])
    captions_of(["abcdefghij"])
    assert [record.getMessage().count("abcdefgh") for record in caplog.records] == [1]


def test_a_trained_tokenizer_has_the_wanted_size_and_gives_back_what_it_was_given():
    from tokenizers import Tokenizer

    captions = ["a red apple", "a green apple", "red panda", "naïve café 😀"] * 5
    for vocabulary in (258, 300, 400):
        text = train_tokenizer(iter(captions), vocabulary)
        tokenizer = Tokenizer.from_str(text)
        assert tokenizer.get_vocab_size() == vocabulary and text == train_tokenizer(iter(captions), vocabulary)
        ids = tokenizer.encode("a red café").ids
        assert ids[0] == vocabulary - 2 and ids[-1] == vocabulary - 1 and max(ids[1:-1]) < vocabulary - 2
        assert tokenizer.decode(ids).strip() == "a red café"
    assert json.loads(text)["model"]["type"] == "BPE"


@pytest.mark.thorough
def test_a_training_starts_from_the_weights_of_another(make_config, trained, tmp_path, capsys):
    workdir, state = trained
    config = make_config(steps=1, evaluate_every=0, init_from=str(workdir))
    config.clip.tokenizer = str(workdir)
    config.optimizer.update({"learning_rate": 1e-9})
    started = train_to_end(config, tmp_path / "run")
    assert "Starts from" in capsys.readouterr().out
    for one, other in zip(jax.tree.leaves(started.params), jax.tree.leaves(state.ema_params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    larger = make_config(init_from=str(workdir))
    larger.clip.embedding = 16
    larger.clip.tokenizer = str(workdir)
    with pytest.raises(UserError, match="shape"):
        train(larger, tmp_path / "larger")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("image_tower", "activation", "quick_gelu"),
        ("image_tower", "heads", 1),
        ("text_tower", "pool", "last"),
        ("clip", "mean", (0.5, 0.5, 0.5)),
        ("clip", "tokenizer", ""),
    ],
)
def test_weights_that_compute_otherwise_are_refused(make_config, trained, tmp_path, section, field, value):
    """Their shapes fit, so nothing else would tell."""
    config = make_config(init_from=str(trained[0]))
    config.clip.tokenizer = str(trained[0])
    with config.unlocked():
        config[section][field] = value
    with pytest.raises(UserError, match=rf"config\.{section}\.{field}\b"):
        train(config, tmp_path)


def test_positions_of_another_resolution_are_interpolated():
    # A linear ramp stays one; the class token's position stays.
    rows, columns = np.mgrid[0:8, 0:8]
    ramp = np.stack([rows, columns], axis=-1).reshape(64, 2).astype(np.float32)
    positions = np.concatenate([np.full((1, 2), 7.0, np.float32), ramp])
    resized = resize_positions(positions, (257, 2))
    assert resized.shape == (257, 2) and (resized[0] == 7).all()
    middle = resized[1:].reshape(16, 16, 2)[5:11, 5:11]
    np.testing.assert_allclose(middle[..., 0], np.arange(5, 11)[:, None] / 2 - 0.25 + np.zeros((6, 6)), atol=1e-3)
    assert resize_positions(positions, (65, 3)) is positions and resize_positions(positions, (18, 2)) is positions
