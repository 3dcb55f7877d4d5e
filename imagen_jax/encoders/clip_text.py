"""The text tower of a CLIP as a text encoder of stages: the states of a caption's tokens, and the caption's vector.

    caption -> token ids -> causal transformer -> last norm -> states of the tokens
                                                            -> state of the end token -> projection -> vector

The end token is the last of a caption's tokens, also of a truncated one, so the vector follows from stored tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Text, TextEmbeddings, TokenIds, TokenMask
from imagen_jax.clip.text_transformer import TextTransformer
from imagen_jax.encoders.batched_encoder import BatchedEncoder, EncoderParts
from imagen_jax.errors import UserError

Vectors = Float[Array, "batch embedding"]


@dataclass(frozen=True)
class ClipTextEncoder(BatchedEncoder):
    """The text tower of a CLIP. Its tokens are float32 states after the last norm.

    Attributes:
        vector_width: number of channels of a caption's vector.
        project: maps the states of end tokens, ``(batch, width)``, to embeddings, ``(batch, vector_width)``.
    """

    vector_width: int
    project: Callable[[Any], Vectors]

    def vectors_of(self, text: Text) -> Vectors:
        """Returns the vectors of encoded captions, of length √(number of channels), so that channels are near 1.

        Only the direction of a CLIP embedding has a meaning.

        Args:
            text: what ``encode`` or a store of embeddings returned.
        """
        embeddings = jnp.asarray(text.embeddings, jnp.float32)
        last = jnp.maximum(jnp.sum(jnp.asarray(text.mask), axis=1) - 1, 0)
        vectors = self.project(embeddings[jnp.arange(len(last)), last])
        return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True) * vectors.shape[1] ** 0.5


def load_clip_text(folder: str = "", max_tokens: int = 0) -> ClipTextEncoder:
    """Returns the text encoder of a CLIP.

    Args:
        folder: the workdir of a CLIP's training, or a folder or file of weights; see ``pretrained_clip.load_clip``.
        max_tokens: max number of tokens of a caption, start and end included; 0 for the CLIP's context.

    Raises:
        UserError: there is no such CLIP, its text tower is not a causal transformer that ends at the end token, or
            ``max_tokens`` exceeds its context.
    """
    # Here, for a CLIP may have a frozen text encoder, and so imports the module that lists the encoders.
    from imagen_jax.encoders.pretrained_clip import load_clip

    if not folder:
        raise UserError("the text encoder clip needs a CLIP: set its option folder, as in --option=folder=runs/clip")
    clip = load_clip(folder, model="")
    tower = clip.description.make_text_tower()
    if not isinstance(tower, TextTransformer) or not tower.causal or tower.pool not in ("end", "argmax"):
        raise UserError(
            f"the text tower of {folder} is not a causal transformer with an end token, so its tokens have no states: "
            "use another CLIP"
        )
    if max_tokens < 0 or max_tokens == 1 or max_tokens > tower.context:
        raise UserError(f"max_tokens={max_tokens} does not fit the CLIP's context: choose 2 to {tower.context}")
    params = clip.text_weights

    def apply(params: Any, ids: TokenIds, mask: TokenMask) -> TextEmbeddings:
        with jax.default_matmul_precision("highest"):
            return tower.apply({"params": params}, ids, method="states")  # type: ignore[return-value]

    def project(states: Any) -> Vectors:
        return states @ params["projection"]["kernel"] + params["projection"].get("bias", 0.0)

    tokens = max_tokens or tower.context
    limit = "" if tokens == tower.context else f"-{tokens}-tokens"
    return ClipTextEncoder(
        name=f"clip-{clip.sha256[:8]}{limit}",
        width=tower.width,
        max_tokens=tokens,
        load_parts=lambda: EncoderParts(clip.tokenize, apply, params),
        vector_width=tower.embedding,
        project=project,
    )
