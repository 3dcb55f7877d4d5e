"""The keys of each section of the config of a prior of codes, as frozen dataclasses; see ``sections``."""

from dataclasses import dataclass

from imagen_jax.config.section import Section
from imagen_jax.config.sections import DataConfig, LoopConfig, MeshConfig, NetworkConfig, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class CodesConfig(Section):
    """The embeddings that an autoregressive prior predicts, their codes, and how it draws them.

    Attributes:
        clip: the CLIP: a folder or file as for ``--clip``, or the workdir of its training.
        channels: number of channels of the CLIP's embeddings.
        text_width: width of the states of the CLIP's text tower.
        text_length: number of tokens of a caption, start and end included.
        components: number of principal components with a code; 319 of 1,024 in the paper.
        buckets: number of values of a code.
        similarity_buckets: number of values of the code of z_i·z_t.
        spacing: a key of ``clip.codes.SPACINGS``: ``quantiles`` or ``uniform`` buckets.
        fitted: max number of training images whose embeddings make the code book.
        guidance: guidance weight of drawing; 1 for no guidance.
        temperature: temperature of drawing.
        top_share: the top share of the distribution of z_i·z_t that drawing draws from, in (0, 1].
    """

    free_to_change = ("guidance", "temperature", "top_share")

    clip: str
    channels: int
    text_width: int
    text_length: int
    components: int
    buckets: int = 1024
    similarity_buckets: int = 1024
    spacing: str = "quantiles"
    fitted: int = 100_000
    guidance: float = 1.0
    temperature: float = 1.0
    top_share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class CodesTrainingConfig(LoopConfig):
    """The training of a prior of codes. See also ``LoopConfig``.

    Attributes:
        caption_dropout: fraction of the examples whose caption and z_t are dropped together for guidance, in [0, 1].
        gradient_accumulation: number of parts of a batch, one after the other, to save memory.
    """

    caption_dropout: float = 0.1
    gradient_accumulation: int = 1


CODES_SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "codes": CodesConfig,
    "network": NetworkConfig,
    "training": CodesTrainingConfig,
    "optimizer": OptimizerConfig,
    "mesh": MeshConfig,
}
"""The sections of the config of a prior of codes, by name. Beside them it has a ``seed``."""
