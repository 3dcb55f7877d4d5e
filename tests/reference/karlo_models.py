"""Karlo's networks at small sizes: their settings, inputs of a call, and what diffusers computes of them."""

from typing import Any

import numpy as np

VECTOR, TOKENS, CROSS = 24, 7, 48
BATCH = 2

PRIOR = {"_class_name": "PriorTransformer", "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
         "embedding_dim": VECTOR, "num_embeddings": TOKENS}  # fmt: skip
DECODER = {"_class_name": "UNet2DConditionModel", "sample_size": 16, "layers_per_block": 1, "in_channels": 3,
           "out_channels": 6, "block_out_channels": [32, 64], "cross_attention_dim": CROSS, "attention_head_dim": 16,
           "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
           "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
           "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "class_embed_type": "identity",
           "resnet_time_scale_shift": "scale_shift"}  # fmt: skip
PROJECTIONS = {"_class_name": "UnCLIPTextProjModel", "clip_embeddings_dim": VECTOR, "clip_extra_context_tokens": 4,
               "time_embed_dim": 128, "cross_attention_dim": CROSS}  # fmt: skip
# With fewer channels than 128, diffusers' groups would have fewer than four.
UPSAMPLER = {"_class_name": "UNet2DModel", "sample_size": 32, "layers_per_block": 1, "in_channels": 6,
             "out_channels": 3, "block_out_channels": [128, 128], "add_attention": False,
             "down_block_types": ["ResnetDownsampleBlock2D"] * 2,
             "up_block_types": ["ResnetUpsampleBlock2D"] * 2}  # fmt: skip

FOLDERS = {
    "prior": PRIOR,
    "decoder": DECODER,
    "text_proj": PROJECTIONS,
    "super_res_first": UPSAMPLER,
    "super_res_last": UPSAMPLER,
}
"""The settings of each folder."""

SCHEDULERS = {
    "prior_scheduler": {"variance_type": "fixed_small_log", "prediction_type": "sample", "clip_sample_range": 5.0},
    "decoder_scheduler": {"variance_type": "learned_range", "prediction_type": "epsilon"},
    "super_res_scheduler": {"variance_type": "fixed_small_log", "prediction_type": "epsilon"},
}


def make_inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of one call of each network; the second caption has padding."""
    draws = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return draws.standard_normal(shape).astype(np.float32)

    return {
        "vector": normal(BATCH, VECTOR),
        "image_vector": normal(BATCH, VECTOR),
        "text_vector": normal(BATCH, VECTOR),
        "text": normal(BATCH, TOKENS, VECTOR),
        "mask": np.arange(TOKENS)[None] < np.asarray([TOKENS, 4])[:, None],
        "noisy": normal(BATCH, 16, 16, 3),
        "large": normal(BATCH, 32, 32, 3),
        "enlarged": normal(BATCH, 32, 32, 3),
        "steps": np.asarray([999.0, 42.0], np.float32),
    }


def make_module(folder: str, seed: int = 0) -> Any:
    """The module of diffusers of a folder, with random weights; no parameter is zero."""
    import torch
    from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    kinds = {kind.__name__: kind for kind in (PriorTransformer, UNet2DConditionModel, UNet2DModel, UnCLIPTextProjModel)}
    settings = FOLDERS[folder]
    torch.manual_seed(seed + list(FOLDERS).index(folder))
    module = kinds[settings["_class_name"]](**{key: value for key, value in settings.items() if key[0] != "_"})
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "clip_std":
                parameter.uniform_(0.5, 1.5)
            elif not parameter.any() or "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def to_torch(array: np.ndarray) -> Any:
    """An array as a tensor; images become NCHW."""
    import torch

    return torch.from_numpy(np.moveaxis(array, -1, 1).copy() if array.ndim == 4 else array)


def run_prior(prior: Any, inputs: dict[str, np.ndarray]) -> Any:
    """The output of diffusers' prior."""
    given = {key: to_torch(array) for key, array in inputs.items()}
    return prior(
        given["vector"],
        given["steps"],
        proj_embedding=given["text_vector"],
        encoder_hidden_states=given["text"],
        attention_mask=given["mask"],
    ).predicted_image_embedding


def run_decoder(decoder: Any, projections: Any, inputs: dict[str, np.ndarray]) -> Any:
    """The output of diffusers' decoder, NCHW, for examples without z_i and then for those with it."""
    import torch
    from torch.nn import functional

    given = {key: to_torch(array) for key, array in inputs.items()}

    def twice(name: str) -> Any:
        return torch.cat([given[name]] * 2)

    tokens, added = projections(
        image_embeddings=given["image_vector"],
        prompt_embeds=twice("text_vector"),
        text_encoder_hidden_states=twice("text"),
        do_classifier_free_guidance=True,
    )
    mask = functional.pad(twice("mask"), (4, 0), value=True)
    return decoder(
        twice("noisy"), twice("steps"), encoder_hidden_states=tokens, class_labels=added, attention_mask=mask
    ).sample


def run_upsampler(network: Any, inputs: dict[str, np.ndarray]) -> Any:
    """The output of one of diffusers' super-resolution networks, NCHW."""
    import torch

    given = {key: to_torch(array) for key, array in inputs.items()}
    return network(torch.cat([given["large"], given["enlarged"]], dim=1), given["steps"]).sample


def tensors_of(**modules: Any) -> dict[str, np.ndarray]:
    """The tensors of modules, with the names of their folders before theirs."""
    return {
        f"{folder}/{name}": parameter.detach().numpy().copy()
        for folder, module in modules.items()
        for name, parameter in module.named_parameters()
    }


def gradients_of(output: Any, cotangent: np.ndarray, **modules: Any) -> dict[str, np.ndarray]:
    """The gradients of all parameters that have one, named as by ``tensors_of``."""
    (output * to_torch(cotangent)).sum().backward()
    return {
        f"{folder}/{name}": parameter.grad.numpy().copy()
        for folder, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
