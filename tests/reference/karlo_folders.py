"""Writes the folder of a small Karlo pipeline as diffusers lays it out, with random weights, without diffusers."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.clip.description import make_description, shapes_of
from imagen_jax.clip.weights import HUGGING_FACE, export_parameters
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.models import NETWORKS
from imagen_jax.sharding.axes import remove_logical_axes
from imagen_jax.weight_formats.karlo_settings import read_decoder, read_prior, read_upsampler
from imagen_jax.weight_formats.karlo_tensors import export_karlo_weights
from tests.drawn_params import draw_params
from tests.reference.clip_folders import END, write_tokenizer
from tests.reference.karlo_models import FOLDERS, SCHEDULERS, TOKENS, VECTOR

SIZE = {"width": VECTOR, "layers": 1, "heads": 2, "hidden": 32, "activation": "quick_gelu"}
TEXT = {"name": "transformer", "vocabulary": END + 1, "context": TOKENS, "end": END, **SIZE}
IMAGE = {"name": "vision_transformer", "resolution": 16, "patch": 8, **SIZE}
CLIP_SETTINGS = {"hidden_size": VECTOR, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
                 "hidden_act": "quick_gelu", "projection_dim": VECTOR}  # fmt: skip
TOWERS = {
    "text_encoder": {"model_type": "clip_text_model", "vocab_size": END + 1, "max_position_embeddings": TOKENS,
                     "eos_token_id": END, **CLIP_SETTINGS},
    "image_encoder": {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, **CLIP_SETTINGS},
}  # fmt: skip


def draw_tensors(part: str) -> dict[str, np.ndarray]:
    """Random tensors of a part's folders, by folder and name."""
    one = jnp.ones(1)
    vector = Vectors(jnp.ones((1, VECTOR)), one > 0)
    text = Text(jnp.ones((1, TOKENS, VECTOR)), jnp.ones((1, TOKENS), bool))
    image = jnp.ones((1, 16, 16, 3))
    fields, noisy, told = {
        "prior": (read_prior(FOLDERS["prior"]), vector.values, Conditions(text=text, text_vector=vector)),
        "decoder": (
            read_decoder(FOLDERS["decoder"], FOLDERS["text_proj"]),
            image,
            Conditions(text=text, text_vector=vector, image_vector=vector),
        ),
        "upsampler": (
            read_upsampler(FOLDERS["super_res_first"], FOLDERS["super_res_last"]),
            image,
            Conditions(low_resolution=LowResolution(image, one)),
        ),
    }[part]
    name = fields.pop("name")
    network: Any = NETWORKS[name](**fields)
    shapes = remove_logical_axes(jax.eval_shape(network.init, jax.random.key(0), noisy, one, told)["params"])
    params = {path: np.asarray(array) for path, array in flatten_dict(draw_params(shapes), sep="/").items()}
    return export_karlo_weights(name, params, len(fields.get("channels", ())))


def write_pipeline(folder: Path, image_encoder: bool = False) -> Path:
    """Writes the folder; with ``image_encoder`` its CLIP has both towers."""
    draws = np.random.default_rng(1)
    tensors = draw_tensors("prior") | draw_tensors("decoder") | draw_tensors("upsampler")
    tensors["prior/clip_mean"] = draws.standard_normal((1, VECTOR)).astype(np.float32)
    tensors["prior/clip_std"] = draws.uniform(0.5, 1.5, (1, VECTOR)).astype(np.float32)
    shapes = shapes_of(make_description(IMAGE, TEXT, VECTOR))
    drawn = {path: 0.3 * draws.standard_normal(shape.shape).astype(np.float32) for path, shape in shapes.items()}
    clip = export_parameters(drawn, HUGGING_FACE)
    for name, tensor in clip.items():
        if name.startswith("text"):
            tensors[f"text_encoder/{name}"] = tensor
        elif name.startswith("vis") and image_encoder:
            tensors[f"image_encoder/{name}"] = tensor
    configs = FOLDERS | {name: settings for name, settings in TOWERS.items() if image_encoder or name[0] == "t"}
    for name, settings in configs.items():
        own = {key.split("/", 1)[1]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
        write_json(folder / name / "config.json", settings)
        kind = "model" if name in TOWERS else "diffusion_pytorch_model"
        save_file({key: np.ascontiguousarray(one) for key, one in own.items()}, folder / name / f"{kind}.safetensors")
    for name, settings in SCHEDULERS.items():
        write_json(folder / name / "scheduler_config.json", {"_class_name": "UnCLIPScheduler", **settings})
    write_tokenizer(folder / "tokenizer")
    (folder / "LICENSE").write_text("CreativeML OpenRAIL-M")
    write_json(folder / "model_index.json", {"_class_name": "UnCLIPPipeline"})
    return folder


def write_json(path: Path, contents: Any) -> None:
    """Writes a JSON file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))
