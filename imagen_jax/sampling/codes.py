r"""Draws the codes of image embeddings from an autoregressive prior (Ramesh et al. 2022, section 2.2).

    begin -> distribution of the similarity code -> a draw from its top half
          -> distribution of code 0 -> a draw -> of code 1 -> … a scan, with the decoder's cache as its state

The similarity code is the bucket of z_i·z_t. With its cumulative distribution F, a draw from the top share s is

    F^-1(u),   u uniform in (1 - s, 1]                                                         (1)

so a bucket that lies across the border counts with the part above it. The paper tried s of 50, 30, 15 and 5% and found
50% best. We read "its distribution" as what the prior predicts for this caption.

Guidance (Ho & Salimans 2022) mixes the logits of codes, in the convention of ``sampling.guidance``:

    l̃ = w l(c) + (1 - w) l(∅)                                                                  (2)

The similarity code is drawn without guidance. The paper prints neither its guidance weight nor a temperature.

Each example has a random key, and its codes depend on this key and its own conditions alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imagen_jax.array_types import Keys
from imagen_jax.errors import UserError
from imagen_jax.sampling.guidance import MAX_GUIDANCE
from imagen_jax.sampling.sampler import fold_into_each

Logits = Float[Array, "batch buckets"]
Code = Int[Array, " batch"]
State = Any


class CodeDecoder(NamedTuple):
    """A prior that decodes step by step, bound to its parameters and conditions.

    Attributes:
        begin: ``() -> (state, logits)``: the logits of the similarity code.
        after_similarity: ``(state, similarity) -> (state, logits)``: the logits of the first code.
        after_code: ``(state, code, number) -> (state, logits)``: the logits of the code after that of component
            ``number``.
    """

    begin: Callable[[], tuple[State, Logits]]
    after_similarity: Callable[[State, Code], tuple[State, Logits]]
    after_code: Callable[[State, Code, Int[Array, ""]], tuple[State, Logits]]


class CodeSettings(NamedTuple):
    """How codes are drawn.

    Attributes:
        guidance: w of equation (2); 1 for no guidance.
        temperature: divides the logits of codes; below 1 draws likelier codes.
        top_share: s of equation (1), in (0, 1]; 1 draws from the whole distribution.
    """

    guidance: float = 1.0
    temperature: float = 1.0
    top_share: float = 0.5


class DrawnCodes(NamedTuple):
    """Codes of a batch.

    Attributes:
        similarity: ``(batch,)``, the bucket of z_i·z_t that was drawn before the codes.
        codes: ``(batch, codes)``.
    """

    similarity: Code
    codes: Int[Array, "batch codes"]


def check_code_settings(settings: CodeSettings, where: str = "") -> None:
    """Checks the ranges of the settings.

    Args:
        settings: the settings.
        where: what precedes their names for the user, such as "config.codes.".

    Raises:
        UserError: one is out of range.
    """
    if not abs(settings.guidance) <= MAX_GUIDANCE:
        raise UserError(
            f"{where}guidance={settings.guidance}: choose a weight from -{MAX_GUIDANCE:g} to {MAX_GUIDANCE:g}"
        )
    if not 0 < settings.temperature < float("inf"):
        raise UserError(f"{where}temperature={settings.temperature}: choose a number above 0, such as 1")
    if not 0 < settings.top_share <= 1:
        raise UserError(f"{where}top_share={settings.top_share}: choose a share above 0, and 1 or less")


def guide_codes(conditional: CodeDecoder, unconditional: CodeDecoder, weight: float) -> CodeDecoder:
    """Makes the guided decoder of equation (2).

    Args:
        conditional: decoder with the caption and z_t.
        unconditional: the same decoder with their nulls.
        weight: w; 1 for no guidance, and then the unconditional decoder is not run.
    """
    if weight == 1.0:
        return conditional

    def both(one: tuple[State, Logits], other: tuple[State, Logits]) -> tuple[State, Logits]:
        return (one[0], other[0]), weight * one[1] + (1.0 - weight) * other[1]

    def begin() -> tuple[State, Logits]:
        state, logits = conditional.begin()
        return (state, unconditional.begin()[0]), logits

    def after_similarity(state: State, similarity: Code) -> tuple[State, Logits]:
        decoders = zip((conditional, unconditional), state, strict=True)
        return both(*(decoder.after_similarity(own, similarity) for decoder, own in decoders))

    def after_code(state: State, code: Code, number: Int[Array, ""]) -> tuple[State, Logits]:
        decoders = zip((conditional, unconditional), state, strict=True)
        return both(*(decoder.after_code(own, code, number) for decoder, own in decoders))

    return CodeDecoder(begin, after_similarity, after_code)


def draw_from_top(keys: Keys, logits: Logits, share: float) -> Code:
    """Draws one bucket for each example from the top share of its distribution. Equation (1)."""
    cumulative = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    uniform = 1.0 - share * jax.vmap(jax.random.uniform)(keys)
    # Times the last sum, which rounding may leave beside 1.
    return jnp.sum(cumulative < (uniform * cumulative[:, -1])[:, None], axis=-1, dtype=jnp.int32)


def draw_each(keys: Keys, logits: Logits, temperature: float) -> Code:
    """Draws one bucket for each example from its distribution."""
    return jax.vmap(jax.random.categorical)(keys, logits / temperature).astype(jnp.int32)


def draw_codes(decoder: CodeDecoder, keys: Keys, num_codes: int, settings: CodeSettings) -> DrawnCodes:
    """Draws the codes of a batch. Use it inside ``jax.jit``.

    Args:
        decoder: the decoder, already guided. ``settings.guidance`` is not read.
        keys: one key for each example.
        num_codes: number of codes of an embedding.
        settings: temperature and top share.
    """
    state, logits = decoder.begin()
    similarity = draw_from_top(fold_into_each(keys, 0), logits, settings.top_share)
    state, logits = decoder.after_similarity(state, similarity)

    def draw(number: Int[Array, ""], logits: Logits) -> Code:
        return draw_each(fold_into_each(keys, number + 1), logits, settings.temperature)

    def take_step(carried: tuple[State, Logits], number: Int[Array, ""]) -> tuple[Any, Code]:
        state, logits = carried
        code = draw(number, logits)
        return decoder.after_code(state, code, number), code

    # The last code need not be read again, so it is drawn after the scan.
    (_, logits), codes = jax.lax.scan(take_step, (state, logits), jnp.arange(num_codes - 1))
    last = draw(jnp.asarray(num_codes - 1), logits)
    return DrawnCodes(similarity, jnp.concatenate([codes, last[None]]).T)
