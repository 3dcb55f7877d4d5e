"""The towers of CLIP against open_clip and transformers: embeddings, gradients of every parameter, and exports."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from imagen_jax.clip.description import make_description
from imagen_jax.clip.open_clip_folder import read_image_tower, read_open_clip_config, read_text_tower
from imagen_jax.clip.tokenizer import CLEANERS
from imagen_jax.clip.weights import HUGGING_FACE, export_parameters, open_clip_layout
from imagen_jax.encoders.clip_preprocessing import normalise
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.errors import UserError
from imagen_jax.sharding.axes import remove_logical_axes
from imagen_jax.weight_formats.clip import export_clip, import_clip
from tests.reference.clip_folders import write_vocabulary
from tests.reference.open_clip_modules import load_open_clip, make_clip, open_clip_folder

pytestmark = pytest.mark.references

VOCABULARY, CONTEXT = 512 + 12 + 2, 12
"""Those of the small vocabulary that ``write_vocabulary`` writes."""

VISION = {"image_size": 32, "layers": 3, "width": 96, "head_width": 32, "patch_size": 8, "mlp_ratio": 2.5}
TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 64, "heads": 2, "layers": 2, "mlp_ratio": 1.5}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "head_width": 64, "patch_size": None}
WIDE_HEADS = {"width": 160, "head_width": 80}

MODELS = {
    "gelu": ({}, {}, {}),
    "quick_gelu": ({"quick_gelu": True}, {}, {}),
    "head_width_80": ({}, WIDE_HEADS, {}),
    "text_prefix": ({"custom_text": True, "quick_gelu": True}, {}, {}),
    "logit_bias": ({"custom_text": True, "init_logit_bias": -10.0}, {}, {}),
    "mean_pool": ({}, {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}, {}),
    "last_of_all": ({"custom_text": True}, {}, {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
    "first_of_all": ({"custom_text": True}, {}, {"no_causal_mask": True, "pool_type": "first"}),
    "eos": ({}, {}, {"pool_type": "eos", "eos_id": VOCABULARY - 1}),
    "resnet": ({"quick_gelu": True}, None, {}),
}


def make_config(name: str) -> dict:
    model, vision, text = MODELS[name]
    vision = RESNET if vision is None else VISION | vision
    model = {"embed_dim": 24, **model, "vision_cfg": vision, "text_cfg": TEXT | text}
    return {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}


def write_folder(folder, config, clip):
    """What open_clip's ``save_for_hf`` writes, and the small vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.numpy() for name, tensor in clip.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    write_vocabulary(folder)
    return folder


def make_inputs(resolution: int, batch: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    images = generator.normal(size=(batch, resolution, resolution, 3)).astype(np.float32)
    ids = generator.integers(1, VOCABULARY - 2, (batch, CONTEXT)).astype(np.int32)
    for row in range(batch):
        ids[row, 3 + row :] = 0
        ids[row, 3 + row] = VOCABULARY - 1
    return images, ids


def assert_close(found, expected, tolerance: float, name: str = "") -> None:
    scale = np.abs(expected).max()
    assert scale > 0, name
    np.testing.assert_allclose(
        np.asarray(found) / scale, np.asarray(expected) / scale, rtol=0, atol=tolerance, err_msg=name
    )


def differentiate_torch(clip, images, ids, directions):
    """The embeddings, and the gradient of their weighted sums by each parameter."""
    import torch

    clip.zero_grad()
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    embeddings = clip.encode_image(pixels), clip.encode_text(torch.from_numpy(ids).long())
    loss = sum((each * torch.from_numpy(by)).sum() for each, by in zip(embeddings, directions, strict=True))
    (loss + clip.logit_scale.sum()).backward()
    gradients = {name: parameter.grad for name, parameter in clip.named_parameters() if parameter.grad is not None}
    return [each.detach().numpy() for each in embeddings], {name: each.numpy() for name, each in gradients.items()}


def differentiate(description, params, images, ids, directions):
    """The same of ours."""
    towers = {"image": description.make_image_tower(), "text": description.make_text_tower()}
    inputs = {"image": jnp.asarray(images), "text": jnp.asarray(ids)}

    def loss(params):
        embeddings = [tower.apply({"params": params[name]}, inputs[name]) for name, tower in towers.items()]
        total = sum((each * by).sum() for each, by in zip(embeddings, directions, strict=True))
        return total + params["logit_scale"], embeddings

    with jax.default_matmul_precision("highest"):
        gradient, embeddings = jax.jit(jax.grad(loss, has_aux=True))(jax.tree.map(jnp.asarray, params))
    return [np.asarray(each) for each in embeddings], gradient


@pytest.mark.parametrize("name", MODELS)
def test_towers_and_gradients_equal_open_clips(name, tmp_path):
    config = make_config(name)
    clip = make_clip(config)
    files = import_clip(str(write_folder(tmp_path, config, clip)))
    resolution = config["model_cfg"]["vision_cfg"]["image_size"]
    images, ids = make_inputs(resolution)
    generator = np.random.default_rng(5)
    directions = [generator.normal(size=(len(ids), 24)).astype(np.float32) for _ in range(2)]
    expected, gradients = differentiate_torch(clip, images, ids, directions)
    found, gradient = differentiate(files.description, files.parameters, images, ids, directions)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-5)
        assert np.abs(other).max() > 0.05 and np.abs(other[0] - other[1]).max() > 0.01, "inputs matter"
    ours = export_parameters(gradient, open_clip_layout(files.description))
    gradients = {key.removeprefix("text."): value for key, value in gradients.items()}
    frozen = {key for key in ours if key.endswith(("running_mean", "running_var"))}
    assert ours.keys() - frozen - gradients.keys() <= {"logit_bias"}
    assert gradients.keys() <= ours.keys()
    for key, value in gradients.items():
        # The softmax does not change where all keys get the same bias: this gradient is zero but for rounding.
        if key.endswith("in_proj_bias"):
            third = len(value) // 3
            value, ours[key] = (np.delete(each, np.s_[third : 2 * third]) for each in (value, ours[key]))
        if key.endswith("attnpool.k_proj.bias"):
            assert max(np.abs(value).max(), np.abs(ours[key]).max()) < 1e-4
            continue
        assert_close(ours[key].reshape(value.shape), value, 1e-4, key)
    assert all(not np.any(ours[key]) for key in frozen)


@pytest.mark.parametrize("name", MODELS)
def test_exports_equal_the_state_dict_and_load_into_open_clip(name, tmp_path):
    import torch

    config = make_config(name)
    clip = make_clip(config)
    files = import_clip(str(write_folder(tmp_path / "in", config, clip)))
    export_clip(files.description, files.parameters, tmp_path / "out", "open_clip", "float32", files.tokenizer_files)
    tensors = load_file(tmp_path / "out" / "open_clip_model.safetensors")
    state = {key.removeprefix("text."): tensor for key, tensor in clip.state_dict().items()}
    assert tensors.keys() == {key for key in state if not key.endswith("num_batches_tracked")}
    for key, tensor in tensors.items():
        assert tensor.shape == tuple(state[key].shape) and tensor.tobytes() == state[key].numpy().tobytes(), key
    written = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    other = make_clip(written, seed=1)
    # Batch norms of torch fill in a missing count of batches.
    other.load_state_dict({key: torch.from_numpy(tensor) for key, tensor in tensors.items()}, strict=True)
    images, ids = make_inputs(config["model_cfg"]["vision_cfg"]["image_size"])
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        assert torch.equal(other.encode_image(pixels), clip.encode_image(pixels))
        assert torch.equal(*(each.encode_text(torch.from_numpy(ids).long()) for each in (other, clip)))


def make_transformers_clip(activation: str):
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    image = {"hidden_size": 160, "num_attention_heads": 2, "intermediate_size": 200, "num_hidden_layers": 2,
             "image_size": 32, "patch_size": 8, "hidden_act": activation}  # fmt: skip
    text = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96, "num_hidden_layers": 2,
            "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "hidden_act": activation,
            "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1, "pad_token_id": 0}  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=24)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embedding" in name:
                parameter.mul_(10)
    return model


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_towers_and_gradients_equal_transformers(activation, tmp_path):
    import torch

    model = make_transformers_clip(activation)
    model.save_pretrained(tmp_path)
    write_vocabulary(tmp_path)
    files = import_clip(str(tmp_path))
    assert files.description.image["activation"] == files.description.text["activation"] == activation
    images, ids = make_inputs(32)
    generator = np.random.default_rng(5)
    directions = [generator.normal(size=(len(ids), 24)).astype(np.float32) for _ in range(2)]
    embeddings = (
        model.get_image_features(pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).pooler_output,
        model.get_text_features(input_ids=torch.from_numpy(ids).long()).pooler_output,
    )
    loss = sum((each * torch.from_numpy(by)).sum() for each, by in zip(embeddings, directions, strict=True))
    (loss + model.logit_scale).backward()
    found, gradient = differentiate(files.description, files.parameters, images, ids, directions)
    for one, other in zip(found, embeddings, strict=True):
        assert_close(one, other.detach().numpy(), 1e-5)
    ours = export_parameters(gradient, HUGGING_FACE)
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if name.endswith("k_proj.bias"):
            assert max(np.abs(value.numpy()).max(), np.abs(ours[name]).max()) < 1e-4, name
        else:
            assert_close(ours[name], value.numpy(), 1e-4, name)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_exports_load_into_transformers(activation, tmp_path):
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    model = make_transformers_clip(activation)
    model.save_pretrained(tmp_path / "in")
    write_vocabulary(tmp_path / "in")
    files = import_clip(str(tmp_path / "in"))
    export_clip(files.description, files.parameters, tmp_path / "out", "hugging_face", "float32", files.tokenizer_files)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "in"))
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == tensor.tobytes() for name, tensor in expected.items())
    other = CLIPModel.from_pretrained(tmp_path / "out").eval()
    images, ids = make_inputs(32)
    with torch.inference_mode():
        for name, values in (
            ("pixel_values", images.transpose(0, 3, 1, 2).copy()),
            ("input_ids", ids.astype(np.int64)),
        ):
            call = "get_image_features" if name == "pixel_values" else "get_text_features"
            one, two = (
                getattr(each, call)(**{name: torch.from_numpy(values)}).pooler_output for each in (other, model)
            )
            assert torch.equal(one, two)
    captions = ["the cat", "a panda's cat", ""]
    assert CLIPTokenizer.from_pretrained(tmp_path / "out")(captions)["input_ids"] == files.tokenize(captions)


def test_the_preparation_equals_that_of_transformers(tmp_path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = make_transformers_clip("gelu")
    model.save_pretrained(tmp_path / "in")
    write_vocabulary(tmp_path / "in")
    files = import_clip(str(tmp_path / "in"))
    export_clip(files.description, files.parameters, tmp_path / "out", "hugging_face", "float32", files.tokenizer_files)
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path / "out")
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    clip = load_clip(str(tmp_path / "out"), "")
    ours = normalise(jnp.asarray(clip.image.prepare(image))[None], clip.description.mean, clip.description.deviation)
    np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-5)


def test_new_parameters_have_the_deviations_of_open_clip():
    """Each kernel of a new text tower, and the image tower's positions, token and projection; its blocks differ."""
    import torch

    config = make_config("gelu")
    config["model_cfg"]["vision_cfg"] = VISION | {"width": 256, "head_width": 64}
    config["model_cfg"]["text_cfg"] = TEXT | {"width": 256, "layers": 3, "mlp_ratio": 4.0}
    torch.manual_seed(0)
    theirs = load_open_clip("model").CLIP(**config["model_cfg"]).state_dict()
    image, text = (config["model_cfg"][key] for key in ("vision_cfg", "text_cfg"))
    description = make_description(read_image_tower(Path(), image, "gelu"), read_text_tower(Path(), text, "gelu"), 24)
    towers = {"image": description.make_image_tower(), "text": description.make_text_tower()}
    new = {
        name: remove_logical_axes(tower.init(jax.random.key(0), jnp.asarray(tower.example_input())))["params"]
        for name, tower in towers.items()
    }
    ours = export_parameters({**new, "logit_scale": np.float32(0)}, open_clip_layout(description))
    compared = 0
    for name, tensor in theirs.items():
        if name.startswith("visual.transformer") or name in ("logit_scale", "visual.conv1.weight") or tensor.ndim < 2:
            continue
        assert ours[name].std() == pytest.approx(tensor.std().item(), rel=0.05), name
        compared += 1
    assert compared == 3 * 4 + 3 + 2


def test_captions_are_cleaned_as_open_clip_cleans_them():
    theirs = load_open_clip("tokenizer")
    captions = ["It’s “A_Photo”, of\na  Cat!", " &lt;b&gt; &amp;amp; ﬀ ", "ＦＵＬＬ　ｗｉｄｔｈ！", "{}", "a-b.c", ""]
    for kind, clean in CLEANERS.items():
        assert [clean(caption) for caption in captions] == [theirs.get_clean_fn(kind)(one) for one in captions], kind


def test_published_configs_are_read_or_refused_by_name(tmp_path):
    """All of open_clip's model configs: the plain ones are read, and the others name what is not implemented."""
    read, refused = [], {}
    for file in sorted((open_clip_folder() / "model_configs").glob("*.json")):
        config = {"model_cfg": json.loads(file.read_text()), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        try:
            read_open_clip_config(tmp_path / "open_clip_config.json", "[SEP]")
            read.append(file.stem)
        except UserError as error:
            refused[file.stem] = str(error)
    plain = {"RN50", "RN50x64-quickgelu", "ViT-B-32", "ViT-L-14-336", "ViT-H-14", "ViT-H-16", "ViT-bigG-14"}
    assert plain | {"ViT-H-14-CLIPA", "ViT-H-14-worldwide"} <= set(read)
    assert all(
        any(word in text for word in ("timm", "Hugging Face", "CoCa", "ls_init_value")) for text in refused.values()
    )
    assert "timm" in refused["ViT-B-16-SigLIP"] and "CoCa" in refused["coca_ViT-B-32"]
