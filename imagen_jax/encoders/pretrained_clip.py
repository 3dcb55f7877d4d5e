"""Loads a pretrained CLIP: its image tower as a feature network, and its text tower for captions.

    --clip_weights=FILE or FOLDER, or OpenAI's file in its usual folder -> sizes, tensors, tokenizer -> Clip

OpenAI's file needs the vocabulary beside it or in the usual folder. A Hugging Face folder contains its own.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float

from imagen_jax.array_types import TokenIds
from imagen_jax.clip.clip import ClipSizes, Embeddings, ImageTower, TextTower, TowerSizes
from imagen_jax.clip.tokenizer import VOCABULARY, load_folder_tokenizer, load_openai_vocabulary
from imagen_jax.clip.weights import derive_sizes, import_clip_weights, read_sizes, split_projections
from imagen_jax.data.tokenizer import Tokenize, pad_token_ids, truncate_token_ids
from imagen_jax.encoders.batched_encoder import round_up_to_bucket
from imagen_jax.encoders.clip_preprocessing import normalise, resize_and_crop
from imagen_jax.encoders.feature_network import FeatureNetwork, Features
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.local_copies import local_copy
from imagen_jax.storage.paths import Path, checksum_of, to_path
from imagen_jax.weights.known_files import KnownFile, find_known_file
from imagen_jax.weights.safetensors_folder import SafetensorsFolder, find_files
from imagen_jax.weights.torch_file import read_torch_file

FLAG = "clip_weights"
VOCABULARY_FLAG = "clip_vocabulary"
DEFAULT_MODEL = "ViT-L/14"
CAPTIONS_AT_ONCE = 64

BASE = TowerSizes(width=768, layers=12, heads=12, hidden=3072)
BASE_TEXT = TowerSizes(width=512, layers=12, heads=8, hidden=2048)
LARGE = TowerSizes(width=1024, layers=24, heads=16, hidden=4096)
LARGE_TEXT = TowerSizes(width=768, layers=12, heads=12, hidden=3072)
TEXT = {"vocabulary": 49408, "context": 77, "end": 49407}

SIZES = {
    "ViT-B/32": ClipSizes(BASE, BASE_TEXT, resolution=224, patch=32, embedding=512, **TEXT),
    "ViT-B/16": ClipSizes(BASE, BASE_TEXT, resolution=224, patch=16, embedding=512, **TEXT),
    "ViT-L/14": ClipSizes(LARGE, LARGE_TEXT, resolution=224, patch=14, embedding=768, **TEXT),
    "ViT-L/14@336px": ClipSizes(LARGE, LARGE_TEXT, resolution=336, patch=14, embedding=768, **TEXT),
}
SHA256 = {
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}


def published_file(model: str) -> KnownFile:
    """Returns OpenAI's file of a model in ``SIZES``. Its URL contains the checksum."""
    name = f"{model.replace('/', '-').replace('@', '-')}.pt"
    url = f"https://openaipublic.azureedge.net/clip/models/{SHA256[model]}/{name}"
    return KnownFile(f"CLIP {model}", name, url, SHA256[model])


class ClipFiles(NamedTuple):
    """The contents of a weights file or folder.

    Attributes:
        sizes: the sizes of the network.
        parameters: the result of ``import_clip_weights``.
        tokenize: the tokenizer, a ``data.tokenizer.Tokenize``.
        sha256: the checksum of the weights.
    """

    sizes: ClipSizes
    parameters: dict[str, Any]
    tokenize: Tokenize
    sha256: str


@dataclass(frozen=True)
class Clip:
    """A CLIP with its weights.

    Attributes:
        name: the name in flags, such as "clip_vit_l14".
        title: the name in reports, such as "CLIP ViT-L/14".
        sha256: the checksum of the weights file.
        image: the image tower. Its features are the embeddings, not normalised to unit length.
        logit_scale: the factor of cosine similarities before the softmax of CLIP's training; 100 in OpenAI's models.
        sizes: the sizes of the network.
        tokenize: maps captions to token ids, neither truncated nor padded.
        embed: maps ``text_weights`` and token ids to embeddings; compiled.
        text_weights: the parameters of the text tower.
    """

    name: str
    title: str
    sha256: str
    image: FeatureNetwork
    logit_scale: float
    sizes: ClipSizes
    tokenize: Tokenize
    embed: Callable[[Any, TokenIds], Embeddings]
    text_weights: Any

    def encode_texts(
        self, captions: Sequence[str], batch_size: int = CAPTIONS_AT_ONCE
    ) -> Float[np.ndarray, "texts width"]:
        """Returns the embeddings of captions, not normalised to unit length.

        A caption of more than ``sizes.context`` (77) tokens is truncated with a warning, but keeps its end token.

        Args:
            captions: at least one caption.
            batch_size: the max number of captions per call of the network.

        Raises:
            UserError: there are no captions.
        """
        if not captions:
            raise UserError("there are no captions to encode: pass at least one")
        sequences = [self.fit(caption, ids) for caption, ids in zip(captions, self.tokenize(captions), strict=True)]
        weights = jax.device_put(self.text_weights)
        batch = min(batch_size, round_up_to_bucket(len(sequences)))
        embeddings = []
        for start in range(0, len(sequences), batch):
            chunk = sequences[start : start + batch]
            ids, _ = pad_token_ids(chunk, batch, self.sizes.context)
            embeddings.append(np.asarray(self.embed(weights, jnp.asarray(ids)))[: len(chunk)])
        return np.concatenate(embeddings)

    def fit(self, caption: str, ids: list[int]) -> list[int]:
        """Returns the ids of a caption, truncated to the network's context. Warns if it truncates."""
        context = self.sizes.context
        if len(ids) > context:
            logging.warning("caption %r has %d tokens and is truncated to %d", caption, len(ids), context)
        return truncate_token_ids(ids, context)


def load_clip(path: str = "", model: str = DEFAULT_MODEL, vocabulary: str = "") -> Clip:
    """Loads a CLIP.

    Args:
        path: OpenAI's file, a state dict with the same names, or a Hugging Face folder, local or in a bucket; "" for
            OpenAI's file in its usual folder, see ``weights.known_files``.
        model: a name in ``SIZES`` that the weights must match; "" accepts any model if ``path`` is given.
        vocabulary: the file ``clip.tokenizer.VOCABULARY`` for OpenAI's weights; "" for the one beside the weights or in
            its usual folder.

    Raises:
        UserError: a file is missing, damaged or of another model, or ``model`` is unknown.
    """
    if not (path and model == ""):
        lookup(SIZES, model, "CLIP")
    named = to_path(path) if path else None
    if named is not None and named.is_dir():
        if vocabulary:
            raise UserError(f"the folder {path} contains its own vocabulary: leave out --{VOCABULARY_FLAG}")
        files = read_folder(named)
    else:
        files = read_openai_file(path, model or DEFAULT_MODEL, vocabulary)
    found = next((name for name, sizes in SIZES.items() if sizes == files.sizes), "")
    if model and found != model:
        raise UserError(
            f"--{FLAG}={path} is CLIP {found or 'of sizes that OpenAI did not publish'}, not {model}: give a file of "
            f"{model}, or choose the model of that file"
        )
    check_tokenizer(files)
    return build(files, found)


def read_openai_file(path: str, model: str, vocabulary: str) -> ClipFiles:
    """Reads weights with OpenAI's names, and the vocabulary.

    Raises:
        UserError: one of the files is missing or damaged.
    """
    found = find_known_file(path, published_file(model), FLAG)
    beside = to_path(path).parent / VOCABULARY.name if path else None
    if not vocabulary and beside is not None and beside.is_file():
        vocabulary = str(beside)
    tokenize = load_openai_vocabulary(find_known_file(vocabulary, VOCABULARY, VOCABULARY_FLAG).path)
    tensors = read_torch_file(found.path)
    sizes = derive_sizes(tensors, found.path)
    return ClipFiles(sizes, import_clip_weights(split_projections(tensors), sizes), tokenize, found.sha256)


def read_folder(folder: Path) -> ClipFiles:
    """Reads a Hugging Face folder: config.json, safetensors and the tokenizer's files.

    Raises:
        UserError: a file is missing or damaged, or is of another model.
    """
    sizes = read_sizes(folder / "config.json")
    tokenize = load_folder_tokenizer(folder)
    tensors = SafetensorsFolder(folder)
    checksums = [checksum_of(local_copy(file)) for file in find_files(folder)]
    sha256 = checksums[0] if len(checksums) == 1 else hashlib.sha256("".join(checksums).encode()).hexdigest()
    return ClipFiles(sizes, import_clip_weights(tensors, sizes), tokenize, sha256)


def check_tokenizer(files: ClipFiles) -> None:
    """Checks that the tokenizer ends captions with the end token of the network.

    Raises:
        UserError: it does not.
    """
    (ids,) = files.tokenize([""])
    if len(ids) != 2 or ids[-1] != files.sizes.end or ids[0] >= files.sizes.vocabulary:
        raise UserError(
            f"the tokenizer maps an empty caption to {ids}, but the weights need two tokens, of which the last is "
            f"{files.sizes.end}: use the tokenizer that came with the weights"
        )


def build(files: ClipFiles, model: str) -> Clip:
    """Builds a CLIP from its files.

    Args:
        files: the sizes, parameters, tokenizer and checksum.
        model: a name in ``SIZES``; "" if the sizes are not those of an OpenAI model.
    """
    sizes, parameters = files.sizes, files.parameters
    model = model or f"{sizes.image.width}x{sizes.image.layers}-{sizes.patch}"
    name = "clip_" + model.lower().replace("/", "").replace("-", "_").replace("@", "_")
    title = f"CLIP {model}"
    image = FeatureNetwork(
        name=name,
        title=title,
        width=sizes.embedding,
        resize="clip",
        sha256=files.sha256,
        extract=partial(extract, ImageTower(sizes)),
        weights=parameters["image"],
        prepare=partial(resize_and_crop, resolution=sizes.resolution),
    )
    embed = jax.jit(partial(embed_ids, TextTower(sizes)))
    scale = float(np.exp(parameters["logit_scale"]))
    return Clip(name, title, files.sha256, image, scale, sizes, files.tokenize, embed, parameters["text"])


def extract(tower: ImageTower, weights: Any, images: jax.Array) -> Features:
    """Returns the embeddings of prepared images, ``(batch, resolution, resolution, 3)`` uint8."""
    # By default TPUs multiply in bfloat16 and GPUs in TF32, which would make scores differ from other programs.
    with jax.default_matmul_precision("highest"):
        return Features(tower.apply({"params": weights}, normalise(images)))  # type: ignore[arg-type]


def embed_ids(tower: TextTower, weights: Any, ids: TokenIds) -> Embeddings:
    """Returns the embeddings ``(batch, embedding)`` of captions' token ids."""
    with jax.default_matmul_precision("highest"):
        return tower.apply({"params": weights}, ids)  # type: ignore[return-value]
