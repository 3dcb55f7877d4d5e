"""CLIPs in folders: three layouts of one network, round trips between them, and configs of other networks."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from imagen_jax.clip.description import describe_towers, make_description, read_description, shapes_of
from imagen_jax.clip.folder import write_clip_folder
from imagen_jax.clip.hugging_face_folder import read_config
from imagen_jax.clip.open_clip_folder import read_open_clip_config
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.encoders.published_clips import SIZES
from imagen_jax.errors import UserError
from imagen_jax.weight_formats.clip import export_clip, import_clip
from tests.reference.clip_folders import (
    DEVIATION,
    EMBEDDING,
    END,
    MEAN,
    make_open_clip_config,
    make_resnet,
    make_resnet_clip,
    make_tensors,
    to_open_clip,
    write_clip_file,
    write_open_clip_folder,
    write_vocabulary,
)
from tests.reference.clip_folders import (
    write_clip_folder as write_hugging_face_folder,
)
from tests.reference.clip_statement import embed_caption, embed_image

CAPTIONS = ["the cat", "a panda", ""]


def embed(clip):
    images = np.random.default_rng(1).integers(0, 256, (2, *clip.image.prepare(np.zeros((9, 9, 3), np.uint8)).shape))
    found = jax.jit(clip.image.extract)(clip.image.weights, jnp.asarray(images, jnp.uint8)).pooled
    return np.asarray(found), clip.encode_texts(CAPTIONS)


def assert_equal_trees(one, other) -> None:
    one, other = (flatten_dict(each, sep="/") for each in (one, other))
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], err_msg=path)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    return import_clip(str(write_hugging_face_folder(tmp_path_factory.mktemp("hugging_face"))))


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    return write_clip_file(tmp_path_factory.mktemp("resnet"), make_resnet_clip())


@pytest.mark.parametrize("prefix", ["", "text."])
@pytest.mark.parametrize("pickle", [False, True])
def test_a_folder_of_open_clip_is_the_same_network_but_for_its_preparation(tmp_path, hugging_face, prefix, pickle):
    folder = write_open_clip_folder(tmp_path, to_open_clip(make_tensors(), prefix), pickle=pickle)
    files = import_clip(str(folder))
    assert files.description.same_network(hugging_face.description)
    assert (list(files.description.mean), list(files.description.deviation)) == (MEAN, DEVIATION)
    weights = folder / ("open_clip_pytorch_model.bin" if pickle else "open_clip_model.safetensors")
    assert files.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert_equal_trees(files.parameters, hugging_face.parameters)


def test_mean_and_deviation_are_those_of_the_config(tmp_path):
    clip = load_clip(str(write_open_clip_folder(tmp_path)), model="")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    as_openai = (image / 255 - MEAN) / DEVIATION * [0.26862954, 0.26130258, 0.27577711]
    pixels = 255 * (as_openai + [0.48145466, 0.4578275, 0.40821073])
    found = jax.jit(clip.image.extract)(clip.image.weights, jnp.asarray(image)[None]).pooled[0]
    np.testing.assert_allclose(found, embed_image(pixels, make_tensors()), rtol=0, atol=1e-5)
    (ids,) = clip.tokenize(["a panda"])
    np.testing.assert_allclose(clip.encode_texts(["a panda"])[0], embed_caption(ids, make_tensors()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_the_activation_is_that_of_the_config(tmp_path, activation):
    quick = activation == "quick_gelu"
    config = make_open_clip_config(model_cfg={"quick_gelu": quick})
    found = import_clip(str(write_open_clip_folder(tmp_path, config=config))).description
    assert found.image["activation"] == found.text["activation"] == activation
    del config["model_cfg"]["quick_gelu"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert import_clip(str(tmp_path)).description.image["activation"] == "gelu", "open_clip's default"


def test_a_folder_of_open_clip_without_a_tokenizer_takes_openais(tmp_path, monkeypatch):
    folder = write_open_clip_folder(tmp_path / "clip")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    vocabulary = write_vocabulary(tmp_path)
    assert load_clip(str(folder), "", str(vocabulary)).tokenize(["the"]) == [[END - 1, 513, END]]
    monkeypatch.setenv("IMAGEN_JAX_WEIGHTS", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="--clip_vocabulary=FILE"):
        load_clip(str(folder), "")


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"vision_cfg": {"timm_model_name": "vit_base"}}, "'vit_base'.*timm"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "'roberta-base'.*Hugging Face"),
        ({"model_cfg": {"multimodal_cfg": {}}}, "CoCa"),
        ({"model_cfg": {"quik_gelu": True}}, "'quik_gelu'.*'quick_gelu'"),
        ({"vision_cfg": {"head_with": 3}}, "'head_with'.*'head_width'"),
        ({"vision_cfg": {"head_width": 48}}, "head_width=48.*128"),
        ({"vision_cfg": {"attentional_pool": True}}, "attentional_pool=True"),
        ({"vision_cfg": {"pool_type": "avg"}}, "pool_type='avg'.*final_ln_after_pool=False"),
        ({"vision_cfg": {"image_size": [32, 64]}}, r"image_size=\[32, 64\]"),
        ({"vision_cfg": {"width": "wide"}}, "width='wide'"),
        ({"text_cfg": {"embed_cls": True}}, "embed_cls=True"),
        ({"text_cfg": {"pool_type": "none"}}, "pool_type='none'"),
        ({"text_cfg": {"qk_norm": True}}, "qk_norm=True"),
        ({"text_cfg": {"norm_kwargs": {"eps": 1e-6}}}, "norm_kwargs"),
        ({"text_cfg": {"tokenizer_kwargs": {"strip": True}}}, "'strip'"),
        ({"preprocess_cfg": {"mean": None}}, "preprocess_cfg.mean=None"),
        ({"preprocess_cfg": {"std": [0, 1, 1]}}, "deviation"),
        ({"preprocess_cfg": {"size": 48}}, "size=48.*32"),
        ({"preprocess_cfg": {"resize_mode": "longest"}}, "'longest'.*'squash'"),
        ({"preprocess_cfg": {"interpolation": "nearest"}}, "'nearest'"),
    ],
)
def test_a_config_of_open_clip_for_another_network_is_refused(tmp_path, changes, facts):
    folder = write_open_clip_folder(tmp_path, config=make_open_clip_config(**changes))
    with pytest.raises(UserError, match=facts):
        load_clip(str(folder), "")


def test_variants_of_open_clip_are_read(tmp_path):
    path = tmp_path / "open_clip_config.json"
    vision = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True, "image_size": [32, 32]}
    text = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "hf_tokenizer_name": "bert-base-uncased"}
    text |= {"tokenizer_kwargs": {"strip_sep_token": True}}
    settings = {"resize_mode": "squash", "interpolation": "bilinear", "size": [32, 32]}
    path.write_text(json.dumps(make_open_clip_config(vision_cfg=vision, text_cfg=text, preprocess_cfg=settings)))
    found = read_open_clip_config(path, "[SEP]")
    assert (found.image["pool"], found.image["first_norm"]) == ("mean", False)
    assert (found.text["pool"], found.text["causal"], found.text["projection_bias"]) == ("last", False, True)
    assert (found.resize, found.interpolation) == ("squash", "bilinear")
    assert (found.clean, found.stripped_token) == ("whitespace", "[SEP]")
    with pytest.raises(UserError, match="sep_token"):
        read_open_clip_config(path)
    path.write_text(json.dumps(make_open_clip_config(text_cfg={"pool_type": "eos", "eos_id": 7})))
    found = read_open_clip_config(path)
    assert (found.text["pool"], found.text["end"]) == ("end", 7)


def test_our_layout_is_read_as_it_was_written(tmp_path, hugging_face):
    write_clip_folder(
        tmp_path / "own", hugging_face.description, hugging_face.parameters, "float32", hugging_face.tokenizer_files
    )
    assert {path.name for path in (tmp_path / "own").iterdir()} == {
        "SHA256SUMS", "clip.safetensors", "clip_config.json", "merges.txt", "vocab.json",
    }  # fmt: skip
    files = import_clip(str(tmp_path / "own"))
    assert files.description == hugging_face.description
    assert_equal_trees(files.parameters, hugging_face.parameters)
    assert files.tokenize(CAPTIONS) == hugging_face.tokenize(CAPTIONS)
    assert files.sha256 == hashlib.sha256((tmp_path / "own" / "clip.safetensors").read_bytes()).hexdigest()


@pytest.mark.thorough
def test_bfloat16_halves_the_file(tmp_path, hugging_face):
    for dtype in ("float32", "bfloat16"):
        write_clip_folder(
            tmp_path / dtype, hugging_face.description, hugging_face.parameters, dtype, hugging_face.tokenizer_files
        )
    whole, half = ((tmp_path / dtype / "clip.safetensors").stat().st_size for dtype in ("float32", "bfloat16"))
    assert 0.5 < half / whole < 0.55
    found, expected = (embed(load_clip(str(tmp_path / dtype), "")) for dtype in ("bfloat16", "float32"))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=0.1)


def test_a_damaged_folder_of_ours_is_refused(tmp_path, hugging_face):
    def write(name, **changes):
        folder = tmp_path / name
        write_clip_folder(
            folder, hugging_face.description, hugging_face.parameters, tokenizer_files=hugging_face.tokenizer_files
        )
        config = json.loads((folder / "clip_config.json").read_text()) | changes
        (folder / "SHA256SUMS").unlink()
        (folder / "clip_config.json").write_text(json.dumps(config))
        return folder

    with pytest.raises(UserError, match=r"'meen'.*'mean'"):
        load_clip(str(write("key", meen=1)), "")
    with pytest.raises(UserError, match=r"deviation=\[1, 1\]"):
        load_clip(str(write("value", deviation=[1, 1])), "")
    with pytest.raises(UserError, match=r"image/projection/kernel .*clip_config\.json"):
        load_clip(str(write("size", embedding=12)), "")
    (write("missing") / "clip.safetensors").unlink()
    with pytest.raises(UserError, match=r"clip\.safetensors is missing"):
        load_clip(str(tmp_path / "missing"), "")
    folder = write("checksum")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  clip.safetensors\n")
    with pytest.raises(UserError, match=r"clip\.safetensors"):
        load_clip(str(folder), "")


def test_parameters_of_another_clip_are_not_written(tmp_path, hugging_face):
    other = make_description(hugging_face.description.image, hugging_face.description.text, 12)
    with pytest.raises(UserError, match="described CLIP"):
        write_clip_folder(tmp_path / "own", other, hugging_face.parameters)
    assert not (tmp_path / "own").exists()


def test_a_description_is_plain_data(hugging_face):
    description = hugging_face.description
    assert read_description(json.loads(json.dumps(description.to_json()))) == description
    towers = description.make_image_tower(remat="blocks", dtype="bfloat16"), description.make_text_tower(scan=True)
    assert (towers[0].remat, towers[0].dtype, towers[1].scan) == ("blocks", "bfloat16", True)
    assert describe_towers(*towers) == description, "how a tower computes is no part of it"
    assert shapes_of(description)["text/tokens/embedding"].shape == (END + 1, 64)
    with pytest.raises(UserError, match="24 and 12"):
        describe_towers(make_description(description.image, description.text, 24).make_image_tower(),
                        make_description(description.image, description.text, 12).make_text_tower())  # fmt: skip
    with pytest.raises(UserError, match="lacks text"):
        read_description({"image": description.image, "embedding": 24})


@pytest.mark.parametrize("name", SIZES)
def test_published_clips_are_known_by_their_descriptions(name):
    assert read_description(SIZES[name].to_json()) == SIZES[name]
    assert [other for other in SIZES if SIZES[other].same_network(SIZES[name])] == [name]


@pytest.mark.parametrize(("name", "parameters"), [("RN50", 102_007_137), ("ViT-B/32", 151_277_313)])
def test_published_clips_have_as_many_parameters_as_openais(name, parameters):
    """As ``sum(p.numel() for p in model.parameters())`` counts, without the statistics of batch norms."""
    counts = [
        np.prod(shape.shape, dtype=int)
        for path, shape in shapes_of(SIZES[name]).items()
        if not path.endswith(("/mean", "/variance"))
    ]
    assert sum(counts) == parameters


def test_a_file_of_openai_with_a_resnet_is_read(resnet_file):
    files = import_clip(str(resnet_file))
    image = files.description.image
    assert (image["name"], image["layers"], image["width"], image["resolution"]) == ("resnet", [1, 2, 1, 1], 8, 64)
    assert (image["heads"], files.description.embedding) == (8 * 32 // 64, EMBEDDING)
    flat = flatten_dict(files.parameters, sep="/")
    resnet = make_resnet_clip()
    np.testing.assert_array_equal(flat["image/stem_norm_2/variance"], resnet["visual.bn2.running_var"])
    np.testing.assert_array_equal(
        flat["image/stage_2_block_1/conv_2/kernel"], resnet["visual.layer2.1.conv2.weight"].transpose(2, 3, 1, 0)
    )
    clip = load_clip(str(resnet_file), "")
    assert clip.name == "clip_8x1_2_1_1" and embed(clip)[0].shape == (2, EMBEDDING)


def test_a_missing_statistic_of_a_resnet_is_named(tmp_path):
    tensors = {name: array for name, array in make_resnet_clip().items() if name != "visual.layer3.0.bn2.running_mean"}
    with pytest.raises(UserError, match=r"visual\.layer3\.0\.bn2\.running_mean"):
        load_clip(str(write_clip_file(tmp_path, tensors)), "")


@pytest.mark.parametrize("kind", ["vision_transformer", "resnet", "prefix"])
def test_exports_to_open_clip_have_the_tensors_that_were_imported(tmp_path, resnet_file, kind):
    if kind == "resnet":
        source, expected = resnet_file, {**to_open_clip(make_tensors()), **make_resnet()}
        expected = {name: array for name, array in expected.items() if not name.startswith("visual.")}
        expected |= {name: array for name, array in make_resnet().items() if not name.endswith("num_batches_tracked")}
    else:
        expected = to_open_clip(make_tensors())
        stored = to_open_clip(make_tensors(), "text." if kind == "prefix" else "")
        source = write_open_clip_folder(tmp_path / "source", stored)
    files = import_clip(str(source))
    export_clip(files.description, files.parameters, tmp_path / "out", "open_clip", "float32", files.tokenizer_files)
    found = load_file(tmp_path / "out" / "open_clip_model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32 and found[name].shape == tensor.shape, name
        assert found[name].tobytes() == tensor.astype(np.float32).tobytes(), name
    again = import_clip(str(tmp_path / "out"))
    assert again.description == files.description
    assert_equal_trees(again.parameters, files.parameters)


def test_exports_to_hugging_face_have_the_tensors_that_were_imported(tmp_path, hugging_face):
    files = hugging_face
    export_clip(files.description, files.parameters, tmp_path, "hugging_face", "float32", files.tokenizer_files)
    found, expected = load_file(tmp_path / "model.safetensors"), make_tensors()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].tobytes() == tensor.tobytes() and found[name].shape == tensor.shape, name
    assert import_clip(str(tmp_path)).description == files.description
    assert import_clip(str(tmp_path)).tokenize(CAPTIONS) == files.tokenize(CAPTIONS)


def test_openais_vocabulary_becomes_that_of_hugging_face(tmp_path):
    files = import_clip(str(write_clip_file(tmp_path / "openai")))
    export_clip(
        files.description, files.parameters, tmp_path / "out", "hugging_face", tokenizer_files=files.tokenizer_files
    )
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert import_clip(str(tmp_path / "out")).tokenize(CAPTIONS) == files.tokenize(CAPTIONS)


@pytest.mark.parametrize("layout", ["imagen_jax", "open_clip", "hugging_face"])
def test_all_layouts_embed_alike(tmp_path, hugging_face, layout):
    files = hugging_face
    export_clip(files.description, files.parameters, tmp_path / layout, layout, tokenizer_files=files.tokenizer_files)
    export_clip(files.description, files.parameters, tmp_path / "own", tokenizer_files=files.tokenizer_files)
    found, expected = (embed(load_clip(str(tmp_path / name), "")) for name in (layout, "own"))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("layout", "image", "text", "others", "facts"),
    [
        ("hugging_face", {"pool": "mean"}, {}, {}, r"image\.pool='class_token'.*'mean'"),
        ("hugging_face", {}, {"causal": False}, {}, r"text\.causal=True"),
        ("hugging_face", {}, {}, {"logit_bias": True}, "logit_bias=False"),
        ("open_clip", {"activation": "gelu"}, {}, {}, "same activation"),
        ("open_clip", {}, {"pool": "argmax"}, {}, "tokenizer"),
        ("open_clip", {}, {}, {"clean": "whitespace"}, "tokenizer"),
        ("onnx", {}, {}, {}, "'onnx'.*open_clip"),
    ],
)
def test_a_layout_that_cannot_hold_a_clip_refuses_it(tmp_path, hugging_face, layout, image, text, others, facts):
    known = hugging_face.description
    description = make_description({**known.image, **image}, {**known.text, **text}, EMBEDDING, **others)
    with pytest.raises(UserError, match=facts):
        export_clip(description, hugging_face.parameters, tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_a_model_is_not_overwritten(tmp_path, hugging_face):
    export_clip(hugging_face.description, hugging_face.parameters, tmp_path)
    with pytest.raises(UserError, match="already contains a model"):
        export_clip(hugging_face.description, hugging_face.parameters, tmp_path, "open_clip")


def test_the_preparation_of_a_hugging_face_folder_is_read(tmp_path):
    folder = write_hugging_face_folder(tmp_path)
    settings = {"image_mean": MEAN, "image_std": DEVIATION, "resample": 2, "do_center_crop": False,
                "size": {"height": 32, "width": 32}}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    found = read_config(folder / "config.json")
    assert (list(found.mean), list(found.deviation)) == (MEAN, DEVIATION)
    assert (found.interpolation, found.resize) == ("bilinear", "squash")
    for change, facts in (
        ({"resample": 0}, "resample=0"),
        ({"do_normalize": False}, "do_normalize"),
        ({"size": {"height": 48, "width": 48}}, "48"),
        ({"image_std": [0, 0, 0]}, "image_std"),
    ):
        (folder / "preprocessor_config.json").write_text(json.dumps(settings | change))
        with pytest.raises(UserError, match=facts):
            read_config(folder / "config.json")


def test_a_bias_of_logits_is_a_parameter(tmp_path, hugging_face):
    tensors = {**to_open_clip(make_tensors()), "logit_bias": np.asarray([-9.5], np.float32)}
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    config = make_open_clip_config(model_cfg={"init_logit_bias": -10, "nonscalar_logit_scale": True})
    files = import_clip(str(write_open_clip_folder(tmp_path / "in", tensors, config)))
    assert files.parameters["logit_bias"] == -9.5 and files.parameters["logit_scale"].shape == ()
    export_clip(files.description, files.parameters, tmp_path / "out", "open_clip", "float32", files.tokenizer_files)
    assert import_clip(str(tmp_path / "out")).parameters["logit_bias"] == -9.5
    save_file({name: array for name, array in tensors.items() if name != "logit_bias"},
              tmp_path / "in" / "open_clip_model.safetensors")  # fmt: skip
    with pytest.raises(UserError, match="logit_bias"):
        import_clip(str(tmp_path / "in"))
