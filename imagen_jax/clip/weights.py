"""Maps the parameters of a CLIP to tensors named as in other projects' files, and back.

    {"visual.conv1.weight": …} or {"vision_model.embeddings.patch_embedding.weight": …}
    <-> {"image": parameters of the image tower, "text": of the text tower, "logit_scale": its logarithm}

open_clip has OpenAI's names. Some of its files have ``text.`` before the names of the text tower. Published tensors
have half precision, or were converted from it. The parameters are float32.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from imagen_jax.clip.description import LOGIT_BIAS, LOGIT_SCALE, Description, shapes_of
from imagen_jax.errors import UserError
from imagen_jax.weights.named_tensors import Shape, import_weights, turn_from_torch, turn_to_torch

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}

HUGGING_FACE_NAMES = {
    "image/class_token": "vision_model.embeddings.class_embedding",
    "image/patches/kernel": "vision_model.embeddings.patch_embedding.weight",
    "image/positions": "vision_model.embeddings.position_embedding.weight",
    "image/first_norm": "vision_model.pre_layrnorm",
    "image/last_norm": "vision_model.post_layernorm",
    "image/projection": "visual_projection",
    "image/layer": "vision_model.encoder.layers",
    "text/tokens": "text_model.embeddings.token_embedding",
    "text/positions": "text_model.embeddings.position_embedding.weight",
    "text/last_norm": "text_model.final_layer_norm",
    "text/projection": "text_projection",
    "text/layer": "text_model.encoder.layers",
    "attention_norm": "layer_norm1",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/output": "self_attn.out_proj",
    "perceptron_norm": "layer_norm2",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
}
OPENAI_NAMES = {
    "image/class_token": "visual.class_embedding",
    "image/patches/kernel": "visual.conv1.weight",
    "image/positions": "visual.positional_embedding",
    "image/first_norm": "visual.ln_pre",
    "image/last_norm": "visual.ln_post",
    "image/projection/kernel": "visual.proj",
    "image/layer": "visual.transformer.resblocks",
    "image/stem_conv": "visual.conv",
    "image/stem_norm": "visual.bn",
    "image/stage": "visual.layer",
    "image/pool/positions": "visual.attnpool.positional_embedding",
    "image/pool/query": "visual.attnpool.q_proj",
    "image/pool/key": "visual.attnpool.k_proj",
    "image/pool/value": "visual.attnpool.v_proj",
    "image/pool/output": "visual.attnpool.c_proj",
    "text/tokens": "token_embedding",
    "text/positions": "positional_embedding",
    "text/last_norm": "ln_final",
    "text/projection/kernel": "text_projection",
    "text/layer": "transformer.resblocks",
    "attention_norm": "ln_1",
    "attention/query": "attn.in_proj.query",
    "attention/key": "attn.in_proj.key",
    "attention/value": "attn.in_proj.value",
    "attention/output": "attn.out_proj",
    "perceptron_norm": "ln_2",
    "expand": "mlp.c_fc",
    "contract": "mlp.c_proj",
    "conv_1": "conv1",
    "conv_2": "conv2",
    "conv_3": "conv3",
    "norm_1": "bn1",
    "norm_2": "bn2",
    "norm_3": "bn3",
    "skip": "downsample.0",
    "skip_norm": "downsample.1",
}
BIASED_PROJECTION = {"text/projection/kernel": "text_projection.weight", "text/projection/bias": "text_projection.bias"}
"""Maps the modules and parameters of the towers to their names in files; see ``name_in_file``."""

TEXT_PREFIX = "text."

# These only repeat sizes, or count the batches of training: ``position_ids`` in files of transformers until 4.31, the
# others in OpenAI's files.
UNUSED = re.compile(
    r"(vision_model|text_model)\.embeddings\.position_ids|input_resolution|context_length|vocab_size|"
    r".*\.num_batches_tracked"
)


class Layout(NamedTuple):
    """The names and the axis order of CLIP's tensors in one kind of file.

    Attributes:
        names: maps modules and parameters to their names in the file; see ``name_in_file``.
        same_axes: the paths of kernels that the file has in our order of axes, and not in PyTorch's.
        joins: whether queries, keys and values are one tensor in the file.
        advice: what to do, in error messages about weights that do not fit.
    """

    names: Mapping[str, str]
    same_axes: frozenset[str]
    joins: bool
    advice: str

    def turn(self, path: str, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        """Returns a tensor with the axes of the parameter, a ``named_tensors.Turn``."""
        if shape == () and tensor.shape == (1,) and self.joins:
            return tensor.reshape(())
        return tensor if path in self.same_axes else turn_from_torch(path, tensor, shape)

    def turn_back(self, path: str, array: np.ndarray) -> np.ndarray:
        """Inverts ``turn``."""
        return array if path in self.same_axes or array.ndim == 0 else turn_to_torch(path, array)


PROJECTIONS = frozenset({"image/projection/kernel", "text/projection/kernel"})
HUGGING_FACE = Layout(HUGGING_FACE_NAMES, frozenset(), False, "use the config.json that came with them")
OPENAI = Layout(OPENAI_NAMES, PROJECTIONS, True, "download one of OpenAI's files in full")


def open_clip_layout(
    description: Description, advice: str = "use the open_clip_config.json that came with them"
) -> Layout:
    """Returns the layout of open_clip's files, which depends on whether the text projection has a bias."""
    if description.text.get("projection_bias"):
        return Layout({**OPENAI_NAMES, **BIASED_PROJECTION}, PROJECTIONS - BIASED_PROJECTION.keys(), True, advice)
    return OPENAI._replace(advice=advice)


def import_parameters(tensors: Mapping[str, np.ndarray], description: Description, layout: Layout) -> dict[str, Any]:
    """Returns the parameters of both towers, ``{"image": …, "text": …, "logit_scale": …}``, float32.

    Args:
        tensors: the tensors of a file, without a prefix of the text tower.
        description: the CLIP in the file.
        layout: the layout of the file.

    Raises:
        UserError: a tensor is missing, left over, of the wrong shape or not finite. The message names it.
    """
    shapes = shapes_of(description)
    split = dict(split_projections(tensors)) if layout.joins else tensors
    sources = {path: name_in_file(path, layout.names) for path in shapes}
    return import_weights(
        "CLIP",
        split,
        shapes,
        sources,
        lambda name: UNUSED.fullmatch(name) is not None,
        turn=layout.turn,
        advice=layout.advice,
    )


def export_parameters(params: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """Returns the tensors of a file with the parameters of both towers; the inverse of ``import_parameters``."""
    arrays = {path: np.asarray(array) for path, array in flatten_dict(params, sep="/").items()}
    tensors = {
        name_in_file(path, layout.names): np.ascontiguousarray(layout.turn_back(path, array))
        for path, array in arrays.items()
    }
    # ``ascontiguousarray`` gives numbers an axis.
    tensors |= {name: arrays[name] for name in (LOGIT_SCALE, LOGIT_BIAS) if name in arrays}
    return join_projections(tensors) if layout.joins else tensors


def name_in_file(path: str, names: Mapping[str, str]) -> str:
    """Returns a parameter's tensor name: ``text/layer_3/expand/bias`` -> ``transformer.resblocks.3.mlp.c_fc.bias``.

    Raises:
        UserError: the layout has no such parameter.
    """
    if path in (LOGIT_SCALE, LOGIT_BIAS) or path in names:
        return names.get(path, path)
    module, leaf = path.rsplit("/", 1)
    if module in names:
        return f"{names[module]}.{LEAVES[leaf]}"
    if layer := re.fullmatch(r"(\w+/layer)_(\d+)/(.+)", module):
        parts = (layer[1], layer[2], layer[3])
    elif stem := re.fullmatch(r"(image/stem_(?:conv|norm))_(\d)", module):
        return f"{names[stem[1]]}{stem[2]}.{LEAVES[leaf]}"
    elif block := re.fullmatch(r"(image/stage)_(\d)_block_(\d+)/(\w+)", module):
        return f"{names[block[1]]}{block[2]}.{block[3]}.{names[block[4]]}.{LEAVES[leaf]}"
    else:
        raise UserError(f"the file's layout has no place for the parameter {path}: use the layout imagen_jax")
    return f"{names[parts[0]]}.{parts[1]}.{names[parts[2]]}.{LEAVES[leaf]}"


def has_openai_names(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are OpenAI's or open_clip's, and not Hugging Face's."""
    return not any(name.startswith(("vision_model.", "text_model.")) for name in tensors)


def remove_text_prefix(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Returns tensors with ``text.`` removed from the names of the text tower, if these have it."""
    if not any(name.startswith(TEXT_PREFIX) for name in tensors):
        return tensors
    return {name.removeprefix(TEXT_PREFIX): tensors[name] for name in tensors}


def split_projections(tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Splits joint tensors of queries, keys and values: ``….in_proj_bias`` to ``….in_proj.key.bias`` etc."""
    for name in tensors:
        tensor = tensors[name]
        whole = re.fullmatch(r"(.*\.in_proj)_(weight|bias)", name)
        if whole and tensor.ndim and len(tensor) % 3 == 0:
            for part, piece in zip(("query", "key", "value"), np.split(tensor, 3), strict=True):
                yield f"{whole[1]}.{part}.{whole[2]}", piece
        else:
            yield name, tensor


def join_projections(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inverts ``split_projections``."""
    joined = {}
    for name, tensor in tensors.items():
        part = re.fullmatch(r"(.*\.in_proj)\.(query|key|value)\.(weight|bias)", name)
        if not part:
            joined[name] = tensor
        elif part[2] == "query":
            pieces = [tensors[f"{part[1]}.{kind}.{part[3]}"] for kind in ("query", "key", "value")]
            joined[f"{part[1]}_{part[3]}"] = np.concatenate(pieces)
    return joined
