"""Maps the tensors of Karlo's networks, under diffusers' names, to the parameters of ours, and back.

    prior/                              <-> ``PriorTransformer``, and mean and deviation of the embeddings
    decoder/, text_proj/                <-> ``KarloUNet``
    super_res_first/, super_res_last/   <-> ``KarloUpsampler``

A part's tensors are joined in one mapping, with the names of their folders before them: ``decoder/conv_in.weight``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imagen_jax.weight_formats.deepfloyd_tensors import (
    ATTENTION_MODULES,
    BLOCK_MODULES,
    LEAVES,
    find_source_block,
)
from imagen_jax.weights.named_tensors import (
    ParameterPlacement,
    Shape,
    import_weights,
    keep_on_host,
    turn_from_torch,
    turn_to_torch,
)

PRIOR_MODULES = {
    "noisy_in": "proj_in",
    "text_in": "encoder_hidden_states_proj",
    "text_vector_in": "embedding_proj",
    "time_hidden": "time_embedding.linear_1",
    "time_out": "time_embedding.linear_2",
    "norm_out": "norm_out",
    "out": "proj_to_clip_embeddings",
}
PRIOR_ARRAYS = {"positions": "positional_embedding", "query": "prd_embedding"}
LAYER_MODULES = {
    "attention_norm": "norm1",
    "query": "attn1.to_q",
    "key": "attn1.to_k",
    "value": "attn1.to_v",
    "attention_out": "attn1.to_out.0",
    "perceptron_norm": "norm3",
    "expand": "ff.net.0.proj",
    "contract": "ff.net.2",
}
MEAN, DEVIATION = "prior/clip_mean", "prior/clip_std"
"""Mean and standard deviation of each channel of the image embeddings; no parameters, but numbers of the config."""

UNET_MODULES = {
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "norm_out/norm": "conv_norm_out",
    "conditioning/step_hidden": "time_embedding.linear_1",
    "conditioning/step_out": "time_embedding.linear_2",
}
PROJECTION_MODULES = {
    "conditioning/text_vector_out": "embedding_proj",
    "conditioning/image_vector_out": "clip_image_embeddings_project_to_time_embeddings",
    "conditioning/image_vector_tokens": "clip_extra_context_tokens_proj",
    "conditioning/text_projection": "encoder_hidden_states_proj",
    "conditioning/text_norm": "text_encoder_hidden_states_norm",
}
IMAGE_NULL = ("conditioning/image_vector_null", "learned_classifier_free_guidance_embeddings")

UPSAMPLERS = {"first": "super_res_first", "last": "super_res_last"}
"""The folder of each network of ``KarloUpsampler``."""


def name_in_prior(path: str) -> str:
    """Returns the tensor of a parameter of the prior: ``layer_3/expand/bias`` -> ``prior/….3.ff.net.0.proj.bias``."""
    if path in PRIOR_ARRAYS:
        return f"prior/{PRIOR_ARRAYS[path]}"
    module, leaf = path.rsplit("/", 1)
    if module in PRIOR_MODULES:
        return f"prior/{PRIOR_MODULES[module]}.{LEAVES[leaf]}"
    layer, module = module.split("/", 1)
    number = layer.removeprefix("layer_")
    return f"prior/transformer_blocks.{number}.{LAYER_MODULES[module]}.{LEAVES[leaf]}"


def name_in_unet(path: str, levels: int) -> str:
    """Returns the name of a parameter in one U-Net's file; ``levels`` is the number of its levels."""
    module, leaf = path.rsplit("/", 1)
    if module in UNET_MODULES:
        return f"{UNET_MODULES[module]}.{LEAVES[leaf]}"
    block, module = module.split("/", 1)
    names = ATTENTION_MODULES if block.endswith("_attention") else BLOCK_MODULES
    return f"{find_source_block(block, levels)}.{names[module]}.{LEAVES[leaf]}"


def name_in_decoder(path: str, levels: int) -> str:
    """Returns the tensor of a parameter of the decoder, in ``decoder/`` or ``text_proj/``."""
    if path == IMAGE_NULL[0]:
        return f"text_proj/{IMAGE_NULL[1]}"
    module, _, leaf = path.rpartition("/")
    if module in PROJECTION_MODULES:
        return f"text_proj/{PROJECTION_MODULES[module]}.{LEAVES[leaf]}"
    return f"decoder/{name_in_unet(path, levels)}"


def name_in_upsampler(path: str, levels: int) -> str:
    """Returns the tensor of a parameter of the super-resolution networks."""
    network, path = path.split("/", 1)
    return f"{UPSAMPLERS[network]}/{name_in_unet(path, levels)}"


def name_tensors(name: str, paths: Mapping[str, Any], levels: int) -> dict[str, str]:
    """Returns the tensor of each parameter of a network.

    Args:
        name: the network, a key of ``models.NETWORKS``.
        paths: a mapping by the paths of its parameters.
        levels: number of levels of a U-Net; 0 for the prior.
    """
    if name == "prior":
        return {path: name_in_prior(path) for path in paths}
    find = {"karlo_unet": name_in_decoder, "karlo_upsampler": name_in_upsampler}[name]
    return {path: find(path, levels) for path in paths}


def turn(path: str, tensor: np.ndarray, shape: Shape) -> np.ndarray:
    """Returns a tensor with the axes of the parameter, a ``named_tensors.Turn``."""
    if path in PRIOR_ARRAYS and tensor.shape == (1,) * (3 - len(shape)) + shape:
        return tensor.reshape(shape)
    return turn_from_torch(path, tensor, shape)


def turn_back(path: str, array: np.ndarray) -> np.ndarray:
    """Inverts ``turn``."""
    if path in PRIOR_ARRAYS:
        return array.reshape((1,) * (3 - array.ndim) + array.shape)
    return turn_to_torch(path, array)


def import_karlo_weights(
    name: str,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    levels: int = 0,
    place: ParameterPlacement = keep_on_host,
) -> dict:
    """Converts tensors to the parameters of a network in float32, a nested dict.

    It reads, transposes and places each tensor before the next one, to save memory.

    Args:
        name: the network, a key of ``models.NETWORKS``.
        tensors: tensors by folder and diffusers' names.
        shapes: shapes of the network's parameters by path, from ``named_tensors.parameter_shapes``.
        levels: number of levels of a U-Net; 0 for the prior.
        place: puts each parameter on its device, see ``named_tensors.ParameterPlacement``.

    Raises:
        UserError: a tensor is missing, left over, of the wrong shape or not finite; the message names the tensor.
    """
    sources = name_tensors(name, shapes, levels)
    return import_weights(
        "Karlo", tensors, shapes, sources, lambda tensor: tensor in (MEAN, DEVIATION), place=place, turn=turn
    )


def export_karlo_weights(name: str, params: Mapping[str, np.ndarray], levels: int = 0) -> dict[str, np.ndarray]:
    """Converts parameters by path to tensors by folder and diffusers' names; inverts ``import_karlo_weights``."""
    names = name_tensors(name, params, levels)
    return {names[path]: turn_back(path, array) for path, array in params.items()}
