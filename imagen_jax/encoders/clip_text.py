"""The text tower of a CLIP as a text encoder of stages: the states of a caption's tokens, and the caption's vector.

    caption -> token ids -> causal transformer -> last norm -> states of the tokens
                                                            -> state of the end token -> projection -> vector

The end token is the last of a caption's tokens, also of a truncated one, so the vector follows from stored tokens. So
it does for a tower that is a head on a frozen text encoder: its states are that encoder's, and the head takes their
mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Text, TextEmbeddings, TokenIds, TokenMask
from imagen_jax.clip.embedding_space import FORMS, EmbeddingSpace
from imagen_jax.clip.feature_head import FeatureHead
from imagen_jax.clip.text_transformer import TextTransformer
from imagen_jax.encoders.batched_encoder import BatchedEncoder, EncoderParts
from imagen_jax.errors import UserError, lookup

SPACES = {form: EmbeddingSpace(form) for form in FORMS}
"""The spaces of captions' vectors, by the encoder's option ``vectors``."""

Vectors = Float[Array, "batch embedding"]
States = Float[Array, "batch width"]


@dataclass(frozen=True)
class ClipTextEncoder(BatchedEncoder):
    """The text tower of a CLIP. Its tokens are float32 states after the last norm.

    Attributes:
        clip: the identity of the CLIP, see ``pretrained_clip.Clip.identity``.
        vector_width: number of channels of a caption's vector.
        pool: the states of an encoded caption's tokens to the state that is projected, ``(batch, width)``.
        project: maps these states to embeddings, ``(batch, vector_width)``.
        space: how embeddings become vectors.
    """

    clip: str
    vector_width: int
    pool: Callable[[Text], Any]
    project: Callable[[Any], Vectors]
    space: EmbeddingSpace

    def vectors_of(self, text: Text) -> Vectors:
        """Returns the vectors of encoded captions, in the CLIP's ``space``.

        Args:
            text: what ``encode`` or a store of embeddings returned.
        """
        return jnp.asarray(self.space.to_vectors(self.project(self.pool(text))))


def state_of_end(text: Text) -> States:
    """Returns the state of each caption's last token."""
    embeddings = jnp.asarray(text.embeddings, jnp.float32)
    last = jnp.maximum(jnp.sum(jnp.asarray(text.mask), axis=1) - 1, 0)
    return embeddings[jnp.arange(len(last)), last]


def load_clip_text(folder: str = "", max_tokens: int = 0, vectors: str = "unit") -> ClipTextEncoder:
    """Returns the text encoder of a CLIP.

    Args:
        folder: the workdir of a CLIP's training, or a folder or file of weights; see ``pretrained_clip.load_clip``.
        max_tokens: max number of tokens of a caption, start and end included; 0 for the CLIP's context.
        vectors: "unit" for directions of length √(number of channels), so that channels are near 1; "raw" for
            embeddings as the tower makes them.

    Raises:
        UserError: there is no such CLIP, its text tower is neither a causal transformer that ends at the end token nor
            a head on a frozen encoder, ``max_tokens`` exceeds its context, or ``vectors`` is unknown.
    """
    # Here, for a CLIP may have a frozen text encoder, and so imports the module that lists the encoders.
    from imagen_jax.encoders.pretrained_clip import load_clip

    if not folder:
        raise UserError("the text encoder clip needs a CLIP: set its option folder, as in --option=folder=runs/clip")
    clip = load_clip(folder, model="")
    tower: Any = clip.description.make_text_tower()
    space = lookup(SPACES, vectors, "vectors of the text encoder clip:")
    if isinstance(tower, FeatureHead):
        return on_frozen_encoder(clip, tower, max_tokens, space)
    if not isinstance(tower, TextTransformer) or not tower.causal or tower.pool not in ("end", "argmax"):
        raise UserError(
            f"the text tower of {folder} is not a causal transformer with an end token, nor a head on a frozen text "
            "encoder, so its tokens have no states: use another CLIP"
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
        name=f"{clip.identity}{limit}",
        width=tower.width,
        max_tokens=tokens,
        load_parts=lambda: EncoderParts(clip.tokenize, apply, params),
        clip=clip.identity,
        vector_width=tower.embedding,
        pool=state_of_end,
        project=project,
        space=space,
    )


def on_frozen_encoder(clip: Any, head: FeatureHead, max_tokens: int, space: EmbeddingSpace) -> ClipTextEncoder:
    """Returns the text encoder of a CLIP whose text tower is a head on a frozen text encoder.

    Args:
        clip: the CLIP.
        head: its text tower.
        max_tokens: max number of tokens of a caption; 0 for the frozen encoder's own.
        space: how embeddings become vectors.

    Raises:
        UserError: the frozen encoder is unknown, has another width, or can't take so many tokens.
    """
    from imagen_jax.encoders.encoder import load_text_encoder
    from imagen_jax.encoders.frozen_features import average_tokens, check_features

    limit = {"max_tokens": max_tokens} if max_tokens else {}
    frozen: Any = load_text_encoder(head.network, **limit)
    check_features(head, frozen.width, "text_tower")
    apply_head = jax.jit(lambda states: head.apply({"params": clip.text_weights}, states))
    return ClipTextEncoder(
        name=f"{clip.identity}-on-{frozen.name}",
        width=frozen.width,
        max_tokens=frozen.max_tokens,
        load_parts=frozen.load_parts,
        clip=clip.identity,
        vector_width=head.embedding,
        pool=average_tokens,
        project=apply_head,
        space=space,
    )
