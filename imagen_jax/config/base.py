"""Makes a config with all keys and their defaults, from the fields of ``config.sections``."""

from collections.abc import Mapping
from typing import get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from imagen_jax.config.clip_sections import CLIP_SECTIONS
from imagen_jax.config.codes_sections import CODES_SECTIONS
from imagen_jax.config.reading import key_defaults, key_types
from imagen_jax.config.section import Section
from imagen_jax.config.sections import CLASSIFIER_SECTIONS, SECTIONS


def base() -> ConfigDict:
    """The keys of a stage's config. Those without a default are None: the experiment sets them."""
    return make_config(SECTIONS)


def classifier_base() -> ConfigDict:
    """The keys of the config of a noisy classifier, as ``base`` has those of a stage."""
    return make_config(CLASSIFIER_SECTIONS)


def clip_base() -> ConfigDict:
    """The keys of the config of a CLIP, as ``base`` has those of a stage."""
    return make_config(CLIP_SECTIONS)


def codes_base() -> ConfigDict:
    """The keys of the config of a prior of codes, as ``base`` has those of a stage."""
    return make_config(CODES_SECTIONS)


def make_config(sections: Mapping[str, type[Section]]) -> ConfigDict:
    """The keys of these sections, and a seed."""
    config = ConfigDict({"seed": 0})
    for name, section in sections.items():
        # A placeholder is None and has a type, so that the command line can set the key.
        keys = {key: placeholder(get_origin(kind) or kind) for key, kind in key_types(section).items()}
        config[name] = ConfigDict(keys | key_defaults(section))
    return config
