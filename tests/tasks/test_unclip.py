"""A prior and a decoder train on a CLIP's embeddings, and sample as one cascade."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from configs import emoji_unclip
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.edits import resize
from imagen_jax.cascade.image_files import read_png_metadata, to_pixels
from imagen_jax.cascade.loading import load_stage
from imagen_jax.cascade.manipulations import (
    decoder_of,
    embed_image,
    encode,
    load_clip_of,
    make_interpolation,
    make_variations,
    reconstruct,
    signal_to_noise,
    text_difference,
    unguided,
    with_decoder,
    without_prior,
)
from imagen_jax.cascade.plans import plan_cascade
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.clip.embedding_space import EmbeddingSpace
from imagen_jax.data.pixels import decode_pixels, to_image
from imagen_jax.data.stored_images import load_split
from imagen_jax.encoders.feature_networks import extract_features
from imagen_jax.encoders.image_vectors import open_image_vectors
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.during_training import FILE_NAME
from imagen_jax.train import train, train_to_end
from imagen_jax.training.monitoring.metrics import read_metrics
from imagen_jax.web.app import make_app
from imagen_jax.web.jobs import Jobs
from imagen_jax.web.listening import keep_out
from imagen_jax.web.orders import Limits
from tests.end_to_end.smoke_runs import draw_own_images
from tests.forked_programs import run_forked
from tests.reference.clip_folders import write_clip_folder
from tests.small_networks import ONE_LEVEL
from tests.web.asking import Served, data_url, pixels_of
from tests.web.served import serving

WIDTH = 24


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A tiny CLIP, images, and the workdirs of a prior and a decoder that were trained on them."""
    folder = tmp_path_factory.mktemp("unclip")
    write_clip_folder(folder / "clip")
    (folder / "images").mkdir()
    draw_own_images(folder / "images")
    for file in (folder / "images").glob("*.png"):
        pixels = np.array(Image.open(file))
        # A mark in a corner, so that an image is not its own mirror image.
        pixels[2:12, 2:12] = 0
        Image.fromarray(pixels).save(file)
    train_to_end(make_config(folder, "prior"), folder / "prior")
    train_to_end(make_config(folder, "decoder"), folder / "decoder")
    return folder


def make_config(folder, variant, clip="clip"):
    config = emoji_unclip.get_config(f"{variant},smoke")
    config.data.update(
        {"source": "folder", "resolution": 32, "data_dir": str(folder / "data"), "validation_fraction": 0.4}
    )
    with config.unlocked():
        config.data.options = {"folder": str(folder / "images")}
        config.text.update({"width": 64, "length": 12})
        config.text.options = {}
        if variant == "decoder":
            config.network.update(ONE_LEVEL)
            # So that a picture with little noise is left about as it is, by whatever network.
            config.stage.prediction = "v"
    config.embedding.clip = str(folder / clip)
    config.stage.text_vector = WIDTH if variant == "prior" else 0
    config.stage["vector" if variant == "prior" else "image_vector"] = WIDTH
    config.training.update({"batch_size": 8, "preview_every": 0})
    config.preview.prompts = ()
    return config


@functools.cache
def load(there, stages):
    return load_cascade([there / stage for stage in stages], {"guidance": 1.0})


def draw(there, requests, stages=("prior", "decoder"), **settings):
    cascade = load(there, stages).adjusted(**settings)
    return [np.concatenate(of_stage) for of_stage in zip(*cascade.draw(requests), strict=True)]


def test_a_prior_draws_vectors_and_the_decoder_is_told_them(there):
    requests = [ImageRequest("bar", conditioning=name) for name in ("prior", "text_embedding", "caption")]
    vectors, images = draw(there, requests)
    # One caption has one noise, so the vectors are equal, and the images differ by what the decoder is told alone.
    np.testing.assert_allclose(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), WIDTH**0.5, rtol=1e-5)
    assert images.shape == (3, *images.shape[1:])
    told = images[0], images[1], images[2]
    assert all(
        np.abs(one - other).max() > 0 for one, other in [(told[0], told[1]), (told[0], told[2]), (told[1], told[2])]
    )
    # A request that brings the prior's vector along gives the prior's image, from the decoder alone.
    given = [ImageRequest("bar", vector=vectors[0])]
    (alone,) = draw(there, given, stages=("decoder",))
    (_, again) = draw(there, [ImageRequest("bar", vector=vectors[0])])
    np.testing.assert_array_equal(again[0], images[0])
    assert alone.shape == again.shape


def test_a_noise_of_ones_own_is_where_the_decoder_starts(there):
    side = load(there, ("decoder",)).stages[0].shape
    noise = np.random.default_rng(0).normal(size=side).astype(np.float32)
    vector = np.ones(WIDTH, np.float32)
    requests = [ImageRequest(prompt, vector=vector, start=noise) for prompt in ("bar", "another")]
    (images,) = draw(there, requests, stages=("decoder",))
    plain = draw(there, [dataclasses.replace(requests[0], start=None)], stages=("decoder",))[0]
    assert np.abs(images[0] - plain[0]).max() > 0
    with pytest.raises(UserError, match="shape"):
        draw(there, [dataclasses.replace(requests[0], start=noise[1:])], stages=("decoder",))


@pytest.mark.thorough
def test_of_several_candidates_the_nearest_to_the_caption_stays(there):
    inputs = load(there, ("prior", "decoder")).inputs(0, [ImageRequest("bar")])
    text = np.asarray(inputs.conditions.text_vector.values[0])
    products = [float(draw(there, ["bar"], candidates=count)[0][0] @ text) for count in (1, 2, 5)]
    assert products == sorted(products) and products[0] < products[-1]


@pytest.mark.thorough
def test_the_page_varies_an_image_and_moves_it_towards_a_text(there):
    cascade = load_cascade([there / "prior", there / "decoder"], {"guidance": 1.0}, batch_size=1)
    limits, pixels = Limits(), np.asarray(Image.open(next((there / "images").glob("*.png"))).convert("RGB"))
    plain = {"steps": 2, "guidance": 1.0, "sampler": "ddim", "thresholding": "none"}
    sent = {"prompt": "", "seed": 3, "image": data_url(pixels)}
    with serving(make_app(Jobs(cascade, limits), limits, keep_out("127.0.0.1"))) as port:
        served = Served(port, [plain, plain])
        assert json.loads(served.ask("stages")[1])["can_manipulate"]
        done = [
            served.follow(served.order(**{**sent, **fields})[1]["id"])[-1]
            for fields in ({"how": "variation"}, {"how": "text_difference", "prompt": "bar", "share": 0.3})
        ]
        varied, moved = (pixels_of(served.ask(job["picture"])[1]) for job in done)
    assert [job["settings"]["edited"] for job in done] == ["variation", "text_difference"]
    decoding = without_prior(cascade).adjusted(steps=2, thresholding="none", sampler="ddim")
    clip = load_clip(str(there / "clip"), model="")
    requests = make_variations(encode(decoding, clip, pixels), 1, fresh_noise=True)
    ((images,),) = decoding.draw(requests, 3)
    np.testing.assert_array_equal(varied, to_pixels(images)[0])
    assert np.abs(moved - varied).max() > 0


@pytest.mark.thorough
def test_a_prior_samples_with_the_variance_that_its_training_measured(there, tmp_path):
    errors = json.loads((there / "prior" / "estimate_errors.json").read_text())["errors"]
    # So new a prior estimates zero, whose error is the mean square of a sample.
    assert len(errors) == 21 and errors[0] == pytest.approx(0.5375**2, rel=0.1)
    settings = load(there, ("prior", "decoder")).adjusted(sampler=["analytic", "ddim"]).stages[0].settings
    assert settings.rule.name == "analytic"
    assert np.isfinite(draw(there, ["bar"], sampler=["analytic", "ddim"])[0]).all()
    shutil.copytree(there / "prior", tmp_path / "prior")
    (tmp_path / "prior" / "estimate_errors.json").unlink()
    with pytest.raises(UserError, match="estimate_errors"):
        load_cascade([tmp_path / "prior", there / "decoder"], {"sampler": ["analytic", "ddim"]})


@pytest.mark.thorough
def test_a_prior_resumes_bit_for_bit(there, tmp_path):
    config = make_config(there, "prior")
    config.training.steps = 1
    train(config, tmp_path / "cut")
    config.training.steps = 2
    resumed, whole = train_to_end(config, tmp_path / "cut"), load_stage(there / "prior")
    jax.tree.map(np.testing.assert_array_equal, resumed.ema_params, whole.params)


def test_a_prior_is_measured_and_names_its_clip(there):
    (line,) = read_metrics(there / "prior", FILE_NAME)
    assert {"prior_cosine", "text_vector_cosine", "ridge_cosine", "prior_diversity"} <= line.keys()
    saved = json.loads((there / "prior" / "config.json").read_text())
    assert saved["fingerprints"]["image_encoder"].startswith("clip-")


def test_the_decoder_is_told_the_vectors_of_its_own_view(there):
    clip = load_clip(str(there / "clip"), model="")
    (data,) = [one.parent for one in (there / "data").glob("*/manifest.json")][:1]
    vectors = open_image_vectors(clip, [data], WIDTH, EmbeddingSpace())
    stored = load_split(data, "train")[0]
    pixels = decode_pixels(stored.encoded)
    both = extract_features(clip.image, [pixels, np.ascontiguousarray(pixels[:, ::-1])], show=False).pooled
    expected = both / np.linalg.norm(both, axis=1, keepdims=True) * WIDTH**0.5
    here = vectors({"key": [stored.key] * 2, "mirrored": np.array([False, True])})
    np.testing.assert_allclose(here, expected, atol=2e-2)
    assert np.abs(here[0] - here[1]).max() > 0


def test_embeddings_of_two_clips_are_not_mixed(there, tmp_path):
    saved = json.loads((there / "decoder" / "config.json").read_text())
    saved["fingerprints"]["image_encoder"] = "clip-00000000-unit"
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="clip-00000000"):
        plan_cascade([there / "prior", tmp_path / "decoder"])


@pytest.mark.parametrize(
    ("variant", "change", "match"),
    [
        ("prior", lambda config: config.stage.update({"resolution": 8}), "vector=24"),
        ("prior", lambda config: config.stage.update({"vector": 0}), "vector=0"),
        ("prior", lambda config: config.stage.update({"vector": 25}), "25"),
        ("prior", lambda config: config.stage.update({"low_resolution": 8}), "low_resolution"),
        ("prior", lambda config: config.embedding.update({"clip": ""}), "config.embedding.clip"),
        ("prior", lambda config: config.embedding.update({"form": "raw"}), "form"),
        ("prior", lambda config: config.training.update({"preview_every": 1}), "preview_every"),
        ("decoder", lambda config: config.data.update({"crop": "random"}), "crop"),
        ("decoder", lambda config: config.stage.update({"image_vector": 0}), "image_vector"),
    ],
)
def test_what_does_not_fit_is_told_before_training(there, tmp_path, variant, change, match):
    config = make_config(there, variant)
    with config.unlocked():
        if "folder" not in config.text.options:
            config.text.options = {"folder": str(there / "clip")}
        change(config)
    with pytest.raises(UserError, match=match):
        train(config, tmp_path / "run")


def test_conditionings_without_effect_are_told(there):
    with pytest.raises(UserError, match="prior"):
        draw(there, [ImageRequest("bar", conditioning="prior")], stages=("decoder",))
    with pytest.raises(UserError, match="shape"):
        draw(there, [ImageRequest("bar", vector=np.ones(3))], stages=("decoder",))
    with pytest.raises(UserError, match="vector"):
        draw(there, [ImageRequest("bar", conditioning="image")], stages=("decoder",))
    with pytest.raises(UserError, match="conditioning"):
        ImageRequest("bar", conditioning="priors")


def test_a_picture_is_encoded_and_comes_back(there):
    cascade = load(there, ("decoder",)).adjusted(steps=16)
    clip = load_clip(str(there / "clip"), model="")
    pictures = [Image.open(there / "images" / f"{number:02d}.png") for number in (0, 1)]
    ones, others = (encode(cascade, clip, picture) for picture in pictures)
    side = cascade.stages[0].resolution
    for latents, picture in ((ones, pictures[0]), (others, pictures[1])):
        target = resize(to_image(np.asarray(picture)), side)
        assert signal_to_noise(reconstruct(cascade, latents), target) > 30
    exact = unguided(cascade)
    row = [*make_interpolation(ones, others, [0.0, 0.5, 1.0]), *make_variations(ones, 1)]
    drawn = np.concatenate([batch[0] for batch in exact.draw(row)])
    for number, latents in ((0, ones), (2, others), (3, ones)):
        np.testing.assert_allclose(drawn[number], reconstruct(cascade, latents), atol=1e-4)
    assert np.abs(drawn[1] - drawn[0]).max() > 0.01
    # With noise on the way, variations differ from each other.
    noisy = with_decoder(cascade, sampler="ddim", eta=1.0)
    varied = np.concatenate([batch[0] for batch in noisy.draw(make_variations(ones, 2))])
    assert np.abs(varied[0] - varied[1]).max() > 0.01


def test_a_text_difference_has_a_direction_or_is_refused(there):
    clip = load_clip(str(there / "clip"), model="")
    difference = text_difference(clip, "a panda", "the cat")
    assert difference.shape == (WIDTH,) and np.linalg.norm(difference) == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(difference, -text_difference(clip, "the cat", "a panda"), atol=1e-5)
    with pytest.raises(UserError, match="same embedding"):
        text_difference(clip, "the cat", "the cat")
    with pytest.raises(UserError, match="is not a decoder"):
        decoder_of(load(there, ("prior", "decoder")))


@pytest.mark.thorough
def test_sample_tells_the_decoder_the_embedding_of_an_image(there, tmp_path, monkeypatch):
    monkeypatch.chdir(there)
    done = run_forked(
        "imagen_jax", "sample", "--stages=prior,decoder", "--steps=2", "--guidance=1", "--prompt=bar",
        "--conditioning=image,caption", "--image=images/00.png", f"--out={tmp_path / 'out'}", "--nogrid",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    images = {read_png_metadata(file)["conditioning"]: file for file in (tmp_path / "out").glob("*.png")}
    cascade = load(there, ("prior", "decoder")).adjusted(steps=2)
    decoding = without_prior(cascade)
    vector = embed_image(decoding, load_clip_of(decoding), Image.open("images/00.png"))
    requests = [ImageRequest("bar", conditioning="image", vector=vector), ImageRequest("bar", conditioning="caption")]
    expected = to_pixels(np.concatenate([batch[-1] for batch in cascade.draw(requests)]))
    for kind, pixels in zip(("image", "caption"), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(images[kind])), pixels)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "flags",
    [
        ["--how=reconstruction"],
        ["--how=variations", "--samples=2", "--eta=0.5"],
        ["--how=interpolation", "--between=3", "--to_image=images/01.png"],
        ["--how=text_difference", "--between=2", "--from_text=a panda", "--to_text=the cat"],
        ["--how=components", "--components=1,3", "--data=DATA"],
    ],
    ids=lambda flags: flags[0],
)
def test_the_command_writes_the_row_and_a_strip(there, tmp_path, flags, monkeypatch):
    monkeypatch.chdir(there)
    (data,) = [file.parent for file in (there / "data").glob("*/manifest.json")]
    flags = [flag.replace("DATA", str(data)) for flag in flags]
    done = run_forked(
        "imagen_jax", "manipulate", *flags, "--stages=prior,decoder", "--steps=16", "--image=images/00.png",
        f"--out={tmp_path / 'out'}"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"00.png", "strip.png", "manipulation.json"} <= written
    assert json.loads((tmp_path / "out" / "manipulation.json").read_text())["reconstruction_psnr"] > 30
