"""CLIP's towers in plain NumPy, float64, one image or caption at a time, from tensors under Hugging Face's names."""

import numpy as np

from tests.reference.clip_folders import END, IMAGE, TEXT

Tensors = dict[str, np.ndarray]
MEAN = np.asarray([0.48145466, 0.4578275, 0.40821073])
DEVIATION = np.asarray([0.26862954, 0.26130258, 0.27577711])


def linear(x: np.ndarray, tensors: Tensors, name: str) -> np.ndarray:
    return x @ np.float64(tensors[f"{name}.weight"]).T + tensors[f"{name}.bias"]


def norm(x: np.ndarray, tensors: Tensors, name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def attend(x: np.ndarray, tensors: Tensors, name: str, heads: int, causal: bool) -> np.ndarray:
    query, key, value = (linear(x, tensors, f"{name}.{kind}_proj") for kind in "qkv")
    width = x.shape[1] // heads
    gathered = np.zeros_like(query)
    for place in range(len(x)):
        seen = slice(0, place + 1 if causal else len(x))
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            weights = np.exp(key[seen, part] @ query[place, part] / np.sqrt(width))
            gathered[place, part] = weights @ value[seen, part] / weights.sum()
    return linear(gathered, tensors, f"{name}.out_proj")


def transform(x: np.ndarray, tensors: Tensors, tower: str, settings: dict[str, int], causal: bool) -> np.ndarray:
    for index in range(settings["num_hidden_layers"]):
        layer = f"{tower}.encoder.layers.{index}"
        heads = settings["num_attention_heads"]
        x = x + attend(norm(x, tensors, f"{layer}.layer_norm1"), tensors, f"{layer}.self_attn", heads, causal)
        hidden = linear(norm(x, tensors, f"{layer}.layer_norm2"), tensors, f"{layer}.mlp.fc1")
        x = x + linear(hidden / (1 + np.exp(-1.702 * hidden)), tensors, f"{layer}.mlp.fc2")
    return x


def embed_image(image: np.ndarray, tensors: Tensors) -> np.ndarray:
    """The embedding of a uint8 image of the network's size."""
    scaled = (image / 255 - MEAN) / DEVIATION
    patch, side = IMAGE["patch_size"], IMAGE["image_size"]
    kernel = np.float64(tensors["vision_model.embeddings.patch_embedding.weight"])
    vectors = [np.float64(tensors["vision_model.embeddings.class_embedding"])]
    for top in range(0, side, patch):
        for left in range(0, side, patch):
            vectors.append(np.einsum("yxc,ocyx->o", scaled[top : top + patch, left : left + patch], kernel))
    x = np.stack(vectors) + tensors["vision_model.embeddings.position_embedding.weight"]
    x = transform(norm(x, tensors, "vision_model.pre_layrnorm"), tensors, "vision_model", IMAGE, causal=False)
    return tensors["visual_projection.weight"] @ norm(x[0], tensors, "vision_model.post_layernorm")


def embed_caption(ids: list[int], tensors: Tensors) -> np.ndarray:
    """The embedding of a caption's tokens, which are cut off behind the first that ends it."""
    ids = ids[: ids.index(END) + 1]
    x = np.float64(tensors["text_model.embeddings.token_embedding.weight"])[ids]
    x = x + tensors["text_model.embeddings.position_embedding.weight"][: len(ids)]
    x = transform(x, tensors, "text_model", TEXT, causal=True)
    return tensors["text_projection.weight"] @ norm(x[-1], tensors, "text_model.final_layer_norm")
