"""An autoregressive prior: network, loss, and drawing image embeddings with it (Ramesh et al. 2022, section 2.2).

    config -> CodeStage -> the loss of a batch of codes, for training
    workdir -> network, averaged parameters, code book -> draw: captions and z_t -> codes -> image embeddings

``sampling.codes`` has the drawing, ``clip.codes`` the code book, ``models.code_prior`` the network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from imagen_jax.array_types import DTYPES, Keys, RandomKey, Scalar, Text
from imagen_jax.cascade.experiment import CodesExperiment, read_codes_experiment
from imagen_jax.cascade.network import build
from imagen_jax.clip.codes import CodeBook, HostVectors, load_code_book, to_unit_channels
from imagen_jax.config.codes_sections import CodesConfig
from imagen_jax.diffusion.conditions import Conditions, Vectors, drop, null
from imagen_jax.errors import UserError, lookup
from imagen_jax.models.code_prior import CodePrior
from imagen_jax.sampling.codes import (
    CodeDecoder,
    CodeSettings,
    DrawnCodes,
    check_code_settings,
    draw_codes,
    guide_codes,
)
from imagen_jax.sharding.axes import axes_of, remove_logical_axes
from imagen_jax.storage.paths import Path
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.workdir import FINGERPRINTS, read_config, require_sections

Params = Any
Metrics = dict[str, Scalar]

NETWORKS: dict[str, Callable[..., CodePrior]] = {"code_prior": CodePrior}
"""The values of ``network.name``."""

BOOK = "codes.npz"
"""The file of the code book in a workdir."""

TOLD = ("text", "text_vector")
"""The conditions, which guidance drops together."""


class CodeBatch(NamedTuple):
    """A training batch of a prior of codes.

    Attributes:
        similarity: the code of z_i·z_t of each pair, ``(batch,)``.
        codes: the codes of z_i, ``(batch, codes)``.
        conditions: the captions' tokens and z_t.
    """

    similarity: Int[Array, " batch"]
    codes: Int[Array, "batch codes"]
    conditions: Conditions


class CodeStage(NamedTuple):
    """A prior of codes without its parameters.

    Attributes:
        network: the network.
        channels: number of channels of the embeddings.
        text_width: width of a caption's tokens.
    """

    network: CodePrior
    channels: int
    text_width: int


def build_code_stage(config: CodesExperiment) -> CodeStage:
    """Builds the prior that a config describes.

    Raises:
        UserError: a name or a field is unknown, or a size or setting is out of range.
    """
    codes, network = config.codes, config.network
    if codes.components > codes.channels:
        raise UserError(
            f"config.codes.components={codes.components} exceeds config.codes.channels={codes.channels}: choose fewer"
        )
    check_code_settings(settings_of(config), "config.codes.")
    if not 0 <= config.training.caption_dropout <= 1:
        raise UserError(f"config.training.caption_dropout={config.training.caption_dropout}: choose 0 to 1")
    built = build(
        lookup(NETWORKS, network.name, "network"),
        network.fields,
        "network",
        codes=codes.components,
        buckets=codes.buckets,
        similarity_buckets=codes.similarity_buckets,
        text_length=codes.text_length,
        dtype=lookup(DTYPES, network.dtype, "network.dtype"),
    )
    return CodeStage(built, codes.channels, codes.text_width)


def settings_of(config: CodesExperiment) -> CodeSettings:
    """Returns the settings of drawing that a config describes."""
    return CodeSettings(config.codes.guidance, config.codes.temperature, config.codes.top_share)


def abstract_code_batch(stage: CodeStage, batch_size: int) -> CodeBatch:
    """Returns the shapes of a training batch."""

    def shape(*sizes: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((batch_size, *sizes), dtype)

    length = stage.network.text_length
    text = Text(shape(length, stage.text_width, dtype=jnp.bfloat16), shape(length, dtype=jnp.bool_))
    vector = Vectors(shape(stage.channels, dtype=jnp.float32), shape(dtype=jnp.bool_))
    codes = shape(stage.network.codes, dtype=jnp.int32)
    return CodeBatch(shape(dtype=jnp.int32), codes, Conditions(text=text, text_vector=vector))


def make_labelled_params(stage: CodeStage, key: RandomKey) -> Any:
    """Returns random parameters; a kernel whose layer names its axes is a ``WithLogicalAxes``."""
    batch = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), abstract_code_batch(stage, 1))
    return stage.network.init(key, batch.conditions, batch.similarity, batch.codes)["params"]


def initial_params(stage: CodeStage, key: RandomKey) -> Params:
    """Returns random initial parameters."""
    return remove_logical_axes(make_labelled_params(stage, key))


def parameter_axes(stage: CodeStage) -> Any:
    """Returns the logical axis names of each parameter (``sharding.axes``); None for a vector, which has none."""
    return axes_of(jax.eval_shape(lambda: make_labelled_params(stage, jax.random.key(0))))


def make_code_loss(
    stage: CodeStage, caption_dropout: float
) -> Callable[[Params, CodeBatch, RandomKey], tuple[Scalar, Metrics]]:
    """Makes the loss: the mean cross-entropy of an example's codes and its similarity code, in nats.

    Args:
        stage: the prior.
        caption_dropout: rate at which the caption and z_t of an example are dropped together.
    """
    apply: Any = stage.network.apply

    def loss(params: Params, batch: CodeBatch, key: RandomKey) -> tuple[Scalar, Metrics]:
        drop_key, dropout_key = jax.random.split(key)
        conditions = drop(batch.conditions, drop_key, dict.fromkeys(TOLD, caption_dropout), together=True)
        logits = apply(
            {"params": params}, conditions, batch.similarity, batch.codes, True, rngs={"dropout": dropout_key}
        )
        similarity = cross_entropy(logits.similarity, batch.similarity).mean()
        codes = cross_entropy(logits.codes, batch.codes).mean()
        count = batch.codes.shape[1]
        mean = (similarity + count * codes) / (count + 1)
        return mean, {"similarity_loss": similarity, "code_loss": codes}

    return loss


def cross_entropy(logits: jax.Array, buckets: jax.Array) -> jax.Array:
    """Returns minus the log-probability of each bucket; the last axis of the logits is that of the buckets."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), buckets[..., None], axis=-1)[..., 0]


def make_code_decoder(network: CodePrior, params: Params, conditions: Conditions) -> CodeDecoder:
    """Binds a network to its parameters and conditions."""
    apply: Any = partial(network.apply, {"params": params})
    return CodeDecoder(
        begin=lambda: apply(conditions, method="begin"),
        after_similarity=lambda state, similarity: apply(state, similarity, method="after_similarity"),
        after_code=lambda state, code, number: apply(state, code, number, method="after_code"),
    )


@partial(jax.jit, static_argnums=(0, 1))
def draw_for(
    network: CodePrior, settings: CodeSettings, params: Params, conditions: Conditions, keys: Keys
) -> DrawnCodes:
    """Draws codes for captions. It is compiled once for each network, settings and batch size.

    Args:
        network: the network.
        settings: guidance, temperature and top share.
        params: its parameters.
        conditions: captions and z_t.
        keys: one key for each example, whose codes depend on it and its own conditions alone.
    """
    conditional = make_code_decoder(network, params, conditions)
    unconditional = make_code_decoder(network, params, null(conditions))
    return draw_codes(guide_codes(conditional, unconditional, settings.guidance), keys, network.codes, settings)


@dataclass(frozen=True, eq=False)
class TrainedCodeStage:
    """A trained prior of codes.

    Attributes:
        name: its name in messages.
        stage: the prior.
        params: its averaged parameters, on the host.
        book: its code book.
        settings: how its config draws.
        step: the number of training steps.
        text_encoder: the name of the text encoder that it was trained with.
        codes: its config of codes.
        clip: the checksum of the CLIP that it was trained with, 16 digits.
    """

    name: str
    stage: CodeStage
    params: Params
    book: CodeBook
    settings: CodeSettings
    step: int
    text_encoder: str
    codes: CodesConfig
    clip: str

    def draw(self, conditions: Conditions, keys: Keys, settings: CodeSettings | None = None) -> HostVectors:
        """Returns image embeddings for captions, ``(batch, channels)``, of length √channels.

        Args:
            conditions: ``text`` and ``text_vector`` of each caption, from the text encoder of its training.
            keys: one key for each caption.
            settings: how to draw; None for ``self.settings``.

        Raises:
            UserError: a setting is out of range.
        """
        settings = self.settings if settings is None else settings
        check_code_settings(settings)
        drawn = draw_for(self.stage.network, settings, self.params, conditions, keys)
        return to_unit_channels(self.book.from_codes(np.asarray(drawn.codes)))


def load_code_stage(workdir: Path) -> TrainedCodeStage:
    """Loads a trained prior of codes.

    Raises:
        UserError: there is no prior of codes, or its parameters or its code book do not match its config.
    """
    saved = read_config(workdir)
    require_sections(saved, ("codes", "network"), workdir, "drawing embeddings")
    fingerprints = saved.pop(FINGERPRINTS, {})
    config = read_codes_experiment(saved)
    stage = build_code_stage(config)
    book = load_code_book(workdir / BOOK)
    check_book(book, config)
    shapes = jax.eval_shape(lambda: initial_params(stage, jax.random.key(0)))
    with CheckpointStore(workdir / "checkpoints") as checkpoints:
        params, step = checkpoints.restore_ema(shapes)
    encoder, clip = (fingerprints.get(name, "") for name in ("text_encoder", "clip"))
    settings = settings_of(config)
    return TrainedCodeStage(
        str(workdir), stage, jax.device_get(params), book, settings, step, encoder, config.codes, clip
    )


def check_book(book: CodeBook, config: CodesExperiment) -> None:
    """Checks that a code book has the sizes of a config.

    Raises:
        UserError: it has others.
    """
    codes = config.codes
    wanted = (codes.channels, codes.components, codes.buckets, codes.similarity_buckets)
    found = (book.channels, book.num_codes, book.buckets, book.similarity_buckets)
    if found != wanted:
        raise UserError(
            f"{BOOK} has the channels, components, buckets and similarity_buckets {found}, and config.codes has "
            f"{wanted}: restore the file of this run, or train into another --workdir"
        )
