"""The section of CLIP's image embeddings, see ``config.sections``."""

from dataclasses import dataclass

from imagen_jax.config.section import Section


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig(Section):
    """CLIP's image embeddings, for a stage that makes them or is told them, see ``clip.embedding_space``.

    Attributes:
        clip: the CLIP of the embeddings of training images: a workdir, or a folder or file of weights; "" for none.
        form: ``unit`` for directions of length √d, or ``raw`` for embeddings as the CLIP makes them.
        deviation: standard deviation of the channels that a prior diffuses, for ``unit``.
        mean: mean of each channel, from which a prior measures, for ``raw``; () for 0.
        deviations: standard deviation of each channel, by which a prior divides, for ``raw``; () for 1.
    """

    free_to_change = ("clip",)

    clip: str = ""
    form: str = "unit"
    deviation: float = 0.5375
    mean: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
