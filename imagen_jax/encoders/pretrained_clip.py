"""Loads a pretrained CLIP: its image tower as a feature network, and its text tower for captions.

    --clip_weights=FILE or FOLDER, or OpenAI's file in its usual folder -> description, tensors, tokenizer -> Clip

OpenAI's file needs the vocabulary beside it or in the usual folder. A folder contains its own (see ``clip.folder``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float

from imagen_jax.array_types import TokenIds
from imagen_jax.clip.absent_tower import ABSENT, refuse_images
from imagen_jax.clip.description import Description
from imagen_jax.clip.embedding_space import EmbeddingSpace
from imagen_jax.clip.feature_head import FROZEN
from imagen_jax.clip.folder import ClipFiles, read_clip_folder
from imagen_jax.clip.openai_file import derive_description
from imagen_jax.clip.tokenizer import VOCABULARY, VOCABULARY_FLAG, load_openai_vocabulary
from imagen_jax.clip.transformer import Embeddings
from imagen_jax.clip.weights import OPENAI, import_parameters
from imagen_jax.data.tokenizer import Tokenize, pad_token_ids, truncate_token_ids
from imagen_jax.encoders.batched_encoder import round_up_to_bucket
from imagen_jax.encoders.clip_preprocessing import normalise, resize_and_crop
from imagen_jax.encoders.feature_network import FeatureNetwork, Features
from imagen_jax.encoders.frozen_features import head_on_captions, head_on_images
from imagen_jax.encoders.published_clips import SIZES, find_published, published_file
from imagen_jax.errors import UserError, lookup
from imagen_jax.pretrained import find_part
from imagen_jax.storage.paths import to_path
from imagen_jax.weights.known_files import find_known_file
from imagen_jax.weights.torch_file import read_torch_file

FLAG = "clip_weights"
DEFAULT_MODEL = "ViT-L/14"
CAPTIONS_AT_ONCE = 64


@dataclass(frozen=True)
class Clip:
    """A CLIP with its weights.

    Attributes:
        name: the name in flags, such as "clip_vit_l14".
        title: the name in reports, such as "CLIP ViT-L/14".
        sha256: the checksum of the weights file.
        image: the image tower. Its features are the embeddings, not normalised to unit length.
        logit_scale: the factor of cosine similarities before the softmax of CLIP's training; 100 in OpenAI's models.
        description: the towers, and how their inputs are prepared.
        tokenize: maps captions to token ids, neither truncated nor padded.
        embed: maps the parameters of the text tower and token ids to embeddings; compiled.
        parameters: ``{"image": …, "text": …, "logit_scale": …}``, float32, on the host.
        embed_features: maps captions to embeddings, if the text tower takes features of a frozen encoder; else None.
    """

    name: str
    title: str
    sha256: str
    image: FeatureNetwork
    logit_scale: float
    description: Description
    tokenize: Tokenize
    embed: Callable[[Any, TokenIds], Embeddings]
    parameters: Any
    embed_features: Callable[[Sequence[str]], np.ndarray] | None = None

    @property
    def identity(self) -> str:
        """What identifies its embeddings: two CLIPs of the same identity have the same weights."""
        return f"clip-{self.sha256[:8]}"

    @property
    def text_weights(self) -> Any:
        """The parameters of the text tower."""
        return self.parameters["text"]

    @property
    def context(self) -> int:
        """The max number of tokens of a caption; a head on a frozen text encoder has none."""
        return self.description.text["context"]

    def encode_texts(
        self, captions: Sequence[str], batch_size: int = CAPTIONS_AT_ONCE
    ) -> Float[np.ndarray, "texts width"]:
        """Returns the embeddings of captions, not normalised to unit length.

        A caption of more than ``context`` (77) tokens is truncated with a warning, but keeps its end token.

        Args:
            captions: at least one caption.
            batch_size: the max number of captions per call of the network.

        Raises:
            UserError: there are no captions.
        """
        if not captions:
            raise UserError("there are no captions to encode: pass at least one")
        if self.embed_features is not None:
            return self.embed_features(captions)
        sequences = [self.fit(caption, ids) for caption, ids in zip(captions, self.tokenize(captions), strict=True)]
        weights = jax.device_put(self.text_weights)
        batch = min(batch_size, round_up_to_bucket(len(sequences)))
        embeddings = []
        for start in range(0, len(sequences), batch):
            chunk = sequences[start : start + batch]
            ids, _ = pad_token_ids(chunk, batch, self.context)
            embeddings.append(np.asarray(self.embed(weights, jnp.asarray(ids)))[: len(chunk)])
        return np.concatenate(embeddings)

    def fit(self, caption: str, ids: list[int]) -> list[int]:
        """Returns the ids of a caption, truncated to the network's context. Warns if it truncates."""
        if len(ids) > self.context:
            logging.warning("caption %r has %d tokens and is truncated to %d", caption, len(ids), self.context)
        return truncate_token_ids(ids, self.context)


def name_vectors(clip: Clip, space: EmbeddingSpace) -> str:
    """Returns what identifies vectors: those of two stages of a cascade must have the same name."""
    return f"{clip.identity}-{space.form}"


def load_clip(path: str = "", model: str = DEFAULT_MODEL, vocabulary: str = "") -> Clip:
    """Loads a CLIP.

    Args:
        path: OpenAI's file, a state dict with the same names, or a folder in our layout, open_clip's or Hugging Face's,
            local, in a bucket or bundled (``emoji_unclip/clip``); "" for OpenAI's file in its usual folder, see
            ``weights.known_files``.
        model: a name in ``SIZES`` that the weights must match; "" accepts any model if ``path`` is given.
        vocabulary: the file ``clip.tokenizer.VOCABULARY`` for weights without a tokenizer; "" for the one beside the
            weights or in its usual folder.

    Raises:
        UserError: a file is missing, damaged or of another model, or ``model`` is unknown.
    """
    files = read_clip_files(path, model, vocabulary)
    found = find_published(files.description)
    if model and found != model:
        raise UserError(
            f"--{FLAG}={path} is CLIP {found or 'of sizes that OpenAI did not publish'}, not {model}: give a file of "
            f"{model}, or choose the model of that file"
        )
    return build(files, found)


def read_clip_files(path: str = "", model: str = "", vocabulary: str = "") -> ClipFiles:
    """Reads a CLIP from a file or folder. The arguments and errors are those of ``load_clip``.

    ``model`` only says which of OpenAI's files is read if ``path`` is "".
    """
    if not (path and model == ""):
        lookup(SIZES, model, "CLIP")
    named = find_part(path) if path else None
    if named is not None and named.is_dir():
        files = read_clip_folder(named, vocabulary)
        if vocabulary and files.tokenizer_files and files.tokenizer_files[0].parent == named:
            raise UserError(f"the folder {path} contains its own vocabulary: leave out --{VOCABULARY_FLAG}")
    else:
        files = read_openai_file(path, model or DEFAULT_MODEL, vocabulary)
    check_tokenizer(files)
    return files


def read_openai_file(path: str, model: str, vocabulary: str) -> ClipFiles:
    """Reads weights with OpenAI's names, and the vocabulary.

    Raises:
        UserError: one of the files is missing or damaged.
    """
    found = find_known_file(path, published_file(model), FLAG)
    beside = to_path(path).parent / VOCABULARY.name if path else None
    if not vocabulary and beside is not None and beside.is_file():
        vocabulary = str(beside)
    words = find_known_file(vocabulary, VOCABULARY, VOCABULARY_FLAG).path
    tokenize = load_openai_vocabulary(words)
    tensors = read_torch_file(found.path)
    description = derive_description(tensors, found.path)
    return ClipFiles(description, import_parameters(tensors, description, OPENAI), tokenize, found.sha256, [words])


def check_tokenizer(files: ClipFiles) -> None:
    """Checks that the tokenizer has ids of the network's vocabulary, and ends captions with the network's end token.

    Raises:
        UserError: it does not.
    """
    text = files.description.text
    if text["name"] == FROZEN:
        return
    (ids,) = files.tokenize([""])
    known = bool(ids) and max(ids) < text["vocabulary"]
    if text.get("pool", "end") != "end" and known:
        return
    # CLIP's own tokenizer has a start token too. Others may lack it.
    few = len(ids) == 2 or (files.description.clean != "lower" and len(ids) == 1)
    if not known or not few or ids[-1] != text["end"]:
        raise UserError(
            f"the tokenizer maps an empty caption to {ids}, but the weights need two tokens, of which the last is "
            f"{text['end']}: use the tokenizer that came with the weights"
        )


def build(files: ClipFiles, model: str) -> Clip:
    """Builds a CLIP from its files.

    Args:
        files: the description, parameters, tokenizer and checksum.
        model: a name in ``SIZES``; "" if the towers are not those of an OpenAI model.
    """
    description, parameters = files.description, files.parameters
    model = model or name_towers(description)
    name = "clip_" + model.lower().replace("/", "").replace("-", "_").replace("@", "_").replace(" ", "_")
    title = f"CLIP {model}"
    image = FeatureNetwork(
        name=name,
        title=title,
        width=description.embedding,
        sha256=files.sha256,
        **IMAGE_FIELDS.get(description.image["name"], image_tower)(description, parameters.get("image", {})),
    )
    text_tower: Any = description.make_text_tower()
    embed = jax.jit(partial(embed_ids, text_tower))
    of_captions = head_on_captions(text_tower, parameters["text"]) if description.text["name"] == FROZEN else None
    scale = float(np.exp(parameters["logit_scale"]))
    return Clip(name, title, files.sha256, image, scale, description, files.tokenize, embed, parameters, of_captions)


def image_tower(description: Description, params: Any) -> dict[str, Any]:
    """Returns the fields of the feature network of an image tower that takes pixels."""
    resize, interpolation = description.resize, description.interpolation
    resolution = description.image["resolution"]
    return {
        "resize": "clip" if (resize, interpolation) == ("shortest", "bicubic") else f"clip_{resize}_{interpolation}",
        "extract": partial(extract, description.make_image_tower(), description.mean, description.deviation),
        "weights": params,
        "prepare": partial(resize_and_crop, resolution=resolution, interpolation=interpolation, resize=resize),
    }


def no_image_tower(description: Description, params: Any) -> dict[str, Any]:
    """Returns the fields of a feature network that refuses images."""

    def refuse(*images: Any) -> Any:
        refuse_images()

    return {"resize": "none", "extract": refuse, "weights": params, "prepare": refuse}


IMAGE_FIELDS: dict[str, Callable[[Description, Any], dict[str, Any]]] = {
    FROZEN: head_on_images,
    ABSENT: no_image_tower,
}
"""Makes the fields of the feature network of image towers that do not take pixels."""


def name_towers(description: Description) -> str:
    """Returns a name for towers that OpenAI did not publish, such as "768x12-32"."""
    image = description.image
    if image["name"] == FROZEN:
        return f"on {image['network']}"
    if image["name"] == ABSENT:
        return f"text {description.text.get('width', '')}x{description.text.get('layers', '')}"
    layers = image["layers"] if isinstance(image["layers"], int) else "-".join(map(str, image["layers"]))
    return f"{image['width']}x{layers}" + (f"-{image['patch']}" if "patch" in image else "")


def extract(
    tower: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...], weights: Any, images: jax.Array
) -> Features:
    """Returns the embeddings of prepared images, ``(batch, resolution, resolution, 3)`` uint8."""
    # By default TPUs multiply in bfloat16 and GPUs in TF32, which would make scores differ from other programs.
    with jax.default_matmul_precision("highest"):
        return Features(tower.apply({"params": weights}, normalise(images, mean, deviation)))  # type: ignore[arg-type]


def embed_ids(tower: nn.Module, weights: Any, ids: TokenIds) -> Embeddings:
    """Returns the embeddings ``(batch, embedding)`` of captions' token ids."""
    with jax.default_matmul_precision("highest"):
        return tower.apply({"params": weights}, ids)  # type: ignore[return-value]
