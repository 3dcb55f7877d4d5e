"""Small DeepFloyd IF U-Nets: their ``config.json`` with every option of the real ones, seeded weights and inputs."""

import zlib
from collections.abc import Mapping

import numpy as np

# What diffusers writes into the config.json of both stages; the options are those of IF-I and IF-II.
SHARED = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "attention_head_dim": 16,
    "block_out_channels": [32, 64, 96],
    "cross_attention_dim": 64,
    "cross_attention_norm": "group_norm",
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"],
    "encoder_hid_dim": 24,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
}
SETTINGS = {
    "stage_1": SHARED | {"in_channels": 3, "sample_size": 16, "layers_per_block": 2},
    "stage_2": SHARED
    | {
        "class_embed_type": "timestep",
        "in_channels": 6,
        "layers_per_block": [1, 2, 1],
        "mid_block_scale_factor": 1 / 0.7071,
        "only_cross_attention": True,
        "resnet_out_scale_factor": 1 / 0.7071,
        "resnet_skip_time_act": True,
        "sample_size": 32,
        "time_embedding_act_fn": "gelu",
        "time_embedding_dim": 96,
    },
    # What neither released stage II does, and its config can say.
    "stage_2_with_self_attention": SHARED
    | {
        "class_embed_type": "timestep",
        "in_channels": 6,
        "layers_per_block": [1, 1, 2],
        "mid_block_only_cross_attention": True,
        "only_cross_attention": [True, True, False],
        "sample_size": 16,
    },
}
MIDDLE = SETTINGS["stage_1"] | {
    "attention_head_dim": 48,
    "block_out_channels": [96, 192, 288, 384],
    "cross_attention_dim": 384,
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "layers_per_block": 2,
    "sample_size": 64,
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
}
"""For benchmarks: half the width and two thirds of the depth of IF-I-M."""

BATCH, TOKENS = 2, 7
STEPS = (0, 713)
AUGMENTATION_STEPS = (250, 3)


def make_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A seeded tensor for each name, at scales that keep activations about one."""
    tensors = {}
    for name, shape in shapes.items():
        normal = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
        if len(shape) > 1 and "positional" not in name:
            normal /= np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight"):
            normal = 1 + 0.2 * normal
        else:
            normal *= 0.2
        tensors[name] = normal.astype(np.float32)
    return tensors


def make_inputs(name: str) -> dict[str, np.ndarray]:
    """Seeded inputs, channels last: the noisy image, its enlarged condition, text, steps, and a cotangent."""
    generator = np.random.default_rng(5)
    size = SETTINGS[name]["sample_size"]

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=(BATCH, *shape)).astype(np.float32)

    return {
        "noisy": normal(size, size, 3),
        "condition": normal(size, size, 3),
        "text": normal(TOKENS, SETTINGS[name]["encoder_hid_dim"]),
        "steps": np.array(STEPS, np.float32),
        "augmentation_steps": np.array(AUGMENTATION_STEPS, np.float32),
        "cotangent": normal(size, size, 6) / size,
    }
