"""Derives the description of a CLIP from the tensors of one of OpenAI's files, which contain no config.

The shapes do not contain the number of heads, the activation or the preparation of images. All of OpenAI's models have
heads of width 64, QuickGELU, and the mean and deviation of ``description``.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from imagen_jax.clip.description import Description, make_description
from imagen_jax.clip.resnet import EXPANSION, STRIDE
from imagen_jax.clip.weights import OPENAI
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path

HEAD_WIDTH = 64
"""The width of a head in OpenAI's models."""

FIRST_BLOCK = "visual.layer1.0.conv1.weight"
"""A tensor that a file has if its image tower is a ResNet."""


def derive_description(tensors: Mapping[str, np.ndarray], file: Path) -> Description:
    """Derives the description of a CLIP from tensors with OpenAI's names.

    Args:
        tensors: the tensors of the file.
        file: the file, for error messages.

    Raises:
        UserError: a required tensor is missing or has the wrong number of axes, or the file is of another kind of CLIP.
    """

    def shape_of(name: str, axes: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != axes or 0 in tensors[name].shape:
            found = f"of shape {tensors[name].shape}" if name in tensors else "missing"
            raise UserError(f"{file} is not a CLIP file of OpenAI (the tensor {name} is {found}): {OPENAI.advice}")
        return tensors[name].shape

    def transformer_below(prefix: str, width: int) -> dict[str, Any]:
        begin = f"{prefix}resblocks."
        layers = {name.removeprefix(begin).split(".")[0] for name in tensors if name.startswith(begin)}
        hidden, _ = shape_of(f"{begin}0.mlp.c_fc.weight", 2)
        sizes = {"width": width, "layers": len(layers), "heads": count_heads(width, file), "hidden": hidden}
        return {**sizes, "activation": "quick_gelu"}

    def vision_transformer() -> dict[str, Any]:
        width, _, patch, _ = shape_of("visual.conv1.weight", 4)
        positions, _ = shape_of("visual.positional_embedding", 2)
        resolution = math.isqrt(positions - 1) * patch
        sizes = transformer_below("visual.transformer.", width)
        return {"name": "vision_transformer", "resolution": resolution, "patch": patch, **sizes}

    def resnet() -> dict[str, Any]:
        width, _, _, _ = shape_of(FIRST_BLOCK, 4)
        positions, _ = shape_of("visual.attnpool.positional_embedding", 2)
        resolution = math.isqrt(positions - 1) * STRIDE
        heads = count_heads(8 * EXPANSION * width, file)
        layers = [count_blocks(tensors, stage) for stage in (1, 2, 3, 4)]
        return {"name": "resnet", "resolution": resolution, "layers": layers, "width": width, "heads": heads}

    context, _ = shape_of("positional_embedding", 2)
    vocabulary, _ = shape_of("token_embedding.weight", 2)
    width, embedding = shape_of("text_projection", 2)
    tokens = {"vocabulary": vocabulary, "context": context, "end": vocabulary - 1}
    text = {"name": "transformer", **tokens, **transformer_below("transformer.", width)}
    return make_description(resnet() if FIRST_BLOCK in tensors else vision_transformer(), text, embedding)


def count_heads(width: int, file: Path) -> int:
    """Returns the number of heads of OpenAI's width.

    Raises:
        UserError: the width is not a multiple of it.
    """
    if width % HEAD_WIDTH:
        raise UserError(
            f"{file} has attention of width {width}, which is not a multiple of {HEAD_WIDTH}: {OPENAI.advice}"
        )
    return width // HEAD_WIDTH


def count_blocks(tensors: Mapping[str, np.ndarray], stage: int) -> int:
    """Returns the number of blocks in a stage of a ResNet; at least 1."""
    found = [re.fullmatch(rf"visual\.layer{stage}\.(\d+)\.conv1\.weight", name) for name in tensors]
    return max(1, len([name for name in found if name]))
