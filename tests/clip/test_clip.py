"""CLIP: its towers against plain NumPy, in both layouts of weights, and with weights that do not fit."""

import dataclasses
import hashlib
import json
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from imagen_jax.encoders import pretrained_clip
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.encoders.published_clips import SHA256, SIZES, published_file
from imagen_jax.errors import UserError
from tests.reference.clip_folders import (
    CONFIG,
    EMBEDDING,
    END,
    MERGES,
    START,
    make_tensors,
    to_openai,
    write_clip_file,
    write_clip_folder,
    write_vocabulary,
)
from tests.reference.clip_statement import embed_caption, embed_image

CAPTIONS = ["the cat", "a panda", "", "The  panda's cat", "the cat the cat the cat the cat the"]


@pytest.fixture(scope="module")
def tensors():
    return make_tensors()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return load_clip(str(folder), model="")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_clip_file(tmp_path_factory.mktemp("openai"))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def embed_images(clip, images):
    return np.asarray(jax.jit(clip.image.extract)(clip.image.weights, jnp.asarray(images)).pooled)


def test_images_are_embedded_as_stated(clip, tensors, images):
    found = embed_images(clip, images)
    expected = np.stack([embed_image(image, tensors) for image in images])
    assert found.shape == (3, EMBEDDING) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "the images differ, so the comparison means something"


def test_captions_are_embedded_as_stated(clip, tensors):
    found = clip.encode_texts(CAPTIONS)
    expected = np.stack([embed_caption(ids, tensors) for ids in clip.tokenize(CAPTIONS)])
    assert found.shape == (5, EMBEDDING) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


def test_what_stands_behind_the_end_changes_nothing(clip):
    ids = np.full((2, 12), 7, np.int32)
    ids[:, 0], ids[:, 4] = START, END
    ids[1, 5:] = [END, *range(6)]
    behind = clip.embed(clip.text_weights, jnp.asarray(ids))
    np.testing.assert_allclose(behind[0], behind[1], rtol=0, atol=1e-5)
    ids[1, 3] = 8
    before = clip.embed(clip.text_weights, jnp.asarray(ids))
    assert np.abs(before[0] - before[1]).max() > 0.01


@pytest.mark.parametrize("script", [True, False])
def test_the_file_of_openai_is_the_same_network(script, tmp_path, clip, images):
    path = write_clip_file(tmp_path, script=script)
    other = load_clip(str(path), model="")
    assert other.description == clip.description
    np.testing.assert_allclose(embed_images(other, images), embed_images(clip, images), rtol=0, atol=1e-5)
    np.testing.assert_allclose(other.encode_texts(CAPTIONS), clip.encode_texts(CAPTIONS), rtol=0, atol=1e-5)
    assert other.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != clip.sha256


def test_a_caption_does_not_depend_on_its_batch(clip):
    whole = clip.encode_texts(CAPTIONS)
    np.testing.assert_allclose(clip.encode_texts(CAPTIONS, batch_size=2), whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(clip.encode_texts(CAPTIONS[::-1])[::-1], whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(clip.encode_texts(CAPTIONS[1:2])[0], whole[1], rtol=0, atol=1e-5)


def test_a_long_caption_is_truncated_with_a_warning_and_keeps_its_end(clip, caplog, tensors):
    caption = "the cat " * 8
    with caplog.at_level(logging.WARNING):
        (found,) = clip.encode_texts([caption])
    assert re.search(r"\b18\b.*\b12\b", caplog.text)
    (ids,) = clip.tokenize([caption])
    np.testing.assert_allclose(found, embed_caption([*ids[:11], END], tensors), rtol=0, atol=1e-5)


def test_no_caption_is_refused(clip):
    with pytest.raises(UserError):
        clip.encode_texts([])


def test_its_names_and_checksum(clip, folder):
    content = (folder / "model.safetensors").read_bytes()
    assert clip.name == clip.image.name == "clip_128x2_8" and clip.title == clip.image.title == "CLIP 128x2-8"
    assert clip.sha256 == clip.image.sha256 == hashlib.sha256(content).hexdigest()
    assert clip.image.width == EMBEDDING and clip.logit_scale == pytest.approx(np.exp(4.5))
    assert clip.image.prepare(np.zeros((40, 50, 3), np.uint8)).shape == (32, 32, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        clip.name = "other"


@pytest.mark.parametrize(
    ("model", "name", "file", "begin"),
    [
        ("ViT-B/32", "clip_vit_b32", "ViT-B-32.pt", "40d36571"),
        ("ViT-B/16", "clip_vit_b16", "ViT-B-16.pt", "5806e77c"),
        ("ViT-L/14", "clip_vit_l14", "ViT-L-14.pt", "b8cca3fd"),
        ("ViT-L/14@336px", "clip_vit_l14_336px", "ViT-L-14-336px.pt", "3035c92b"),
        ("RN50x4", "clip_rn50x4", "RN50x4.pt", "7e526bd1"),
    ],
)
def test_openais_files(model, name, file, begin):
    known = published_file(model)
    assert known.name == file and known.sha256.startswith(begin) and len(known.sha256) == 64
    assert known.url.endswith(f"/{known.sha256}/{file}")
    files = pretrained_clip.ClipFiles(
        SIZES[model], {"image": {}, "text": {}, "logit_scale": np.float32(0)}, lambda captions: [], known.sha256
    )
    built = pretrained_clip.build(files, model)
    assert (built.name, built.title) == (name, f"CLIP {model}")


def test_a_file_in_the_weights_folder_is_found(tmp_path, monkeypatch, file, clip):
    monkeypatch.setenv("IMAGEN_JAX_WEIGHTS", str(tmp_path))
    vocabulary = write_vocabulary(tmp_path)
    (tmp_path / "ViT-B-32.pt").write_bytes(file.read_bytes())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "ViT-B-32.pt", vocabulary)]
    monkeypatch.setitem(SHA256, "ViT-B/32", digests[0])
    monkeypatch.setattr(pretrained_clip, "VOCABULARY", pretrained_clip.VOCABULARY._replace(sha256=digests[1]))
    monkeypatch.setitem(SIZES, "ViT-B/32", clip.description)
    assert load_clip(model="ViT-B/32").name == "clip_vit_b32"


def test_missing_weights_give_the_address_the_checksum_and_the_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEN_JAX_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_clip()
    known = published_file("ViT-L/14")
    for part in (known.url, known.sha256, str(tmp_path / "ViT-L-14.pt"), "--clip_weights=FILE"):
        assert part in str(caught.value)


def test_a_missing_vocabulary_gives_its_checksum_and_the_flag(tmp_path, monkeypatch, file):
    monkeypatch.setenv("IMAGEN_JAX_WEIGHTS", str(tmp_path))
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "small.pt"
    alone.write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"CLIP's tokenizer .*924691ac.*--clip_vocabulary=FILE"):
        load_clip(str(alone), model="")
    vocabulary = write_vocabulary(tmp_path / "elsewhere")
    assert load_clip(str(alone), model="", vocabulary=str(vocabulary)).tokenize(["the"]) == [[START, 513, END]]


def test_another_model_than_the_named_one_is_refused(folder, monkeypatch, clip):
    with pytest.raises(UserError, match=r"--clip_weights=.* ViT-L/14"):
        load_clip(str(folder))
    monkeypatch.setitem(SIZES, "ViT-B/16", clip.description)
    with pytest.raises(UserError, match=r"--clip_weights=.* ViT-B/16.* ViT-L/14"):
        load_clip(str(folder))
    with pytest.raises(UserError, match=r"'ViT-L-14'.*'ViT-L/14'"):
        load_clip(str(folder), model="ViT-L-14")


def test_a_folder_needs_no_vocabulary(folder, tmp_path):
    with pytest.raises(UserError, match="--clip_vocabulary"):
        load_clip(str(folder), model="", vocabulary=str(write_vocabulary(tmp_path)))


@pytest.mark.parametrize(
    "name",
    ["logit_scale", "visual_projection.weight", "text_model.encoder.layers.2.self_attn.k_proj.bias"],
)
def test_a_missing_tensor_of_a_folder_is_named(tmp_path, tensors, name):
    write_clip_folder(tmp_path, {key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(UserError, match=rf"CLIP .*{re.escape(name)}\b"):
        load_clip(str(tmp_path), model="")


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("visual.ln_pre.bias", "visual.ln_pre.bias"),
        ("text_projection", "text_projection"),
        ("transformer.resblocks.1.attn.in_proj_bias", "transformer.resblocks.1.attn.in_proj.key.bias"),
    ],
)
def test_a_missing_tensor_of_a_file_is_named(tmp_path, tensors, name, lacking):
    openai = to_openai(tensors)
    path = write_clip_file(tmp_path, {key: tensor for key, tensor in openai.items() if key != name})
    with pytest.raises(UserError, match=rf"{re.escape(lacking)}\b.*OpenAI"):
        load_clip(str(path), model="")


def test_a_tensor_left_over_or_of_another_shape_is_named(tmp_path, tensors):
    write_clip_folder(tmp_path / "one", {**tensors, "text_model.extra": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"text_model\.extra"):
        load_clip(str(tmp_path / "one"), model="")
    old = {**tensors, "vision_model.embeddings.position_ids": np.arange(17)[None]}
    assert load_clip(str(write_clip_folder(tmp_path / "old", old)), model="").description.image["resolution"] == 32
    write_clip_folder(tmp_path / "two", {**tensors, "logit_scale": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match=r"logit_scale.* \(2,\)"):
        load_clip(str(tmp_path / "two"), model="")


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"visual.layer1.0.conv1.weight": np.zeros((1, 1, 1, 1), "<f4")}, r"visual\.attnpool\.positional_embedding"),
        ({"visual.conv1.weight": np.zeros((3, 3), "<f4")}, r"visual\.conv1\.weight .*\(3, 3\)"),
        ({"visual.conv1.weight": np.zeros((96, 3, 8, 8), "<f4")}, r"\b96\b.*\b64\b"),
        ({"visual.positional_embedding": np.zeros((16, 128), "<f4")}, r"positional_embedding .*\(16, 128\)"),
        ({"transformer.resblocks.0.attn.in_proj_bias": np.zeros(64, "<f4")}, r"0\.attn\.in_proj_bias"),
    ],
)
def test_another_network_of_openai_is_refused(tmp_path, tensors, change, facts):
    path = write_clip_file(tmp_path, to_openai(tensors) | change)
    with pytest.raises(UserError, match=facts):
        load_clip(str(path), model="")


def changed_config(changes: dict) -> dict:
    config = json.loads(json.dumps(CONFIG))
    for path, value in changes.items():
        *parts, last = path.split("/")
        inner = config
        for part in parts:
            inner = inner[part]
        inner[last] = value
    return config


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"model_type": "siglip"}, "'siglip'"),
        ({"vision_config/hidden_act": "relu"}, "hidden_act='relu'.*hidden_act='quick_gelu'"),
        ({"text_config/layer_norm_eps": 1e-6}, "layer_norm_eps=1e-06.*layer_norm_eps=1e-05"),
        ({"vision_config/patch_size": 7}, r"patches .*\b32 pixels"),
        ({"vision_config/num_attention_heads": 3}, r"heads .*vision_config\.hidden_size=128"),
        ({"text_config/vocab_size": "many"}, "vocab_size='many'"),
        ({"text_config": 3}, "text_config=3"),
        ({"projection_dim": 0}, "projection_dim=0"),
        ({"text_config/eos_token_id": START}, rf"\b{START}\b"),
        ({"vision_config/num_hidden_layers": 3}, r"vision_model\.encoder\.layers\.2\..*\b8\b"),
    ],
)
def test_a_config_of_another_network_is_refused(tmp_path, change, facts):
    write_clip_folder(tmp_path, config=changed_config(change))
    with pytest.raises(UserError, match=facts):
        load_clip(str(tmp_path), model="")


def test_old_settings_are_understood(tmp_path, clip):
    config = changed_config({"text_config/eos_token_id": 2, "vision_config/hidden_size": 64})
    config["vision_config_dict"] = {"hidden_size": 128}
    config["text_config_dict"] = None
    assert load_clip(str(write_clip_folder(tmp_path, config=config)), model="").description == clip.description


def test_shards_have_one_checksum(tmp_path, tensors, clip):
    write_clip_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[:40], "b.safetensors": names[40:]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    whole = load_clip(str(tmp_path), model="")
    np.testing.assert_array_equal(whole.encode_texts(CAPTIONS), clip.encode_texts(CAPTIONS))
    assert len(whole.sha256) == 64 and whole.sha256 != clip.sha256


def test_a_file_in_a_bucket_is_read_with_the_vocabulary_beside_it(bucket, file):
    (bucket / "small.pt").write_bytes(file.read_bytes())
    write_to = bucket / "bpe_simple_vocab_16e6.txt.gz"
    write_to.write_bytes((file.parent / write_to.name).read_bytes())
    assert load_clip(str(bucket / "small.pt"), model="").tokenize(["the"]) == [[START, 513, END]]
    assert MERGES[1] == "th e</w>"
