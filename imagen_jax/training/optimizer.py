"""The optimizers of Imagen (appendix F.1): Adafactor for the base, Adam for the super-resolution stages."""

from collections.abc import Callable

import optax

from imagen_jax.errors import UserError, choose


def adam(
    learning_rate: optax.Schedule, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Adam with the paper's constants."""
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=epsilon)


def adafactor(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor with optax's defaults and no weight decay, as the paper states."""
    return optax.adafactor(learning_rate)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adam": adam, "adafactor": adafactor}


def warm_up_then_cosine(peak: float, warm_up_steps: int, decay_steps: int) -> optax.Schedule:
    """Learning rate: linear from 0 to ``peak``, then along a cosine to 0 at ``decay_steps`` (counted from the start).

    Raises:
        UserError: the warm-up does not end before the decay does.
    """
    if not 0 <= warm_up_steps < decay_steps:
        raise UserError(
            f"optimizer.warm_up_steps={warm_up_steps} must be below decay_steps={decay_steps}: shorten the warm-up"
        )
    return optax.warmup_cosine_decay_schedule(0.0, peak, warm_up_steps, decay_steps)


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    warm_up_steps: int,
    decay_steps: int,
    clip_norm: float | None,
    **options: float,
) -> optax.GradientTransformation:
    """Makes the optimizer a config names.

    Args:
        name: a key of ``OPTIMIZERS``.
        learning_rate: its peak.
        warm_up_steps: see ``warm_up_then_cosine``.
        decay_steps: see ``warm_up_then_cosine``.
        clip_norm: largest global norm of a gradient; None leaves gradients alone (the paper does not say).
        **options: whatever else the optimizer takes.
    """
    make = choose(OPTIMIZERS, name, "optimizer")
    optimizer = make(warm_up_then_cosine(learning_rate, warm_up_steps, decay_steps), **options)
    return optimizer if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
