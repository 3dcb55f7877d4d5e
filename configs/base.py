"""All keys of a config, with their defaults: each experiment starts from these and says only what it changes.

    from .base import base      config = base(); config.training.steps = 1000

The fields of ``imagen_jax.config.sections`` are the keys, and describe them. The package makes the config from them, so
that a config file outside the checkout can start from it too: ``from imagen_jax.config.base import base``.
"""

from imagen_jax.config.base import base, classifier_base, clip_base, codes_base

__all__ = ["base", "classifier_base", "clip_base", "codes_base"]
