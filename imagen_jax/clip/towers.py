"""The towers that a config or a file can name, and their descriptions as plain data.

    {"name": "vision_transformer", "width": 768, …} -> ``make_tower`` -> Linen module -> ``describe_tower`` -> the same

An image tower maps normalised images ``(batch, resolution, resolution, 3)`` to embeddings, and a text tower token ids
``(batch, context)``. Both are called with ``train``, and ``example_input`` returns an input of batch size 1 for
``init``. Both have a field ``embedding``. An image tower also has ``resolution``, and a text tower ``vocabulary``,
``context`` and ``end``. ``frozen_features`` has none of these: it takes features of a frozen network. Nor has
``absent``, which stands for an image tower that is not there. To add a tower, write such a module with fields of the
types in ``KINDS``, and add it to one of the dicts.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from imagen_jax.clip.absent_tower import ABSENT, AbsentTower
from imagen_jax.clip.bag_of_words import BagOfWords
from imagen_jax.clip.feature_head import FeatureHead
from imagen_jax.clip.resnet import ResNet
from imagen_jax.clip.text_transformer import TextTransformer
from imagen_jax.clip.vision_transformer import VisionTransformer
from imagen_jax.errors import UserError, check_names, lookup
from imagen_jax.weights.json_settings import COUNTS, FLAG, TEXT, Kind

IMAGE_TOWERS: dict[str, type[nn.Module]] = {
    "vision_transformer": VisionTransformer,
    "resnet": ResNet,
    "frozen_features": FeatureHead,
    ABSENT: AbsentTower,
}

TEXT_TOWERS: dict[str, type[nn.Module]] = {
    "transformer": TextTransformer,
    "bag_of_words": BagOfWords,
    "frozen_features": FeatureHead,
}

NOT_FIELDS = {"parent", "name"}
"""Fields of every Linen module, which describe no tower."""


def is_number(value: Any) -> bool:
    """Returns whether a value is a number that is not negative."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


KINDS: dict[Any, Kind] = {
    bool: FLAG,
    int: Kind("a whole number that is not negative", lambda value: is_number(value) and isinstance(value, int)),
    float: Kind("a number that is not negative", is_number),
    str: TEXT,
    tuple[int, ...]: COUNTS,
}
"""The types that fields of towers have, and their values in JSON."""


def fields_of(tower: type[nn.Module] | nn.Module) -> dict[str, dataclasses.Field]:
    """Returns the fields of a tower, by name, without those of every module."""
    return {field.name: field for field in dataclasses.fields(tower) if field.name not in NOT_FIELDS}


def make_tower(registry: Mapping[str, type[nn.Module]], description: Mapping[str, Any]) -> nn.Module:
    """Makes a tower from its description.

    Args:
        registry: ``IMAGE_TOWERS`` or ``TEXT_TOWERS``.
        description: the tower's name under "name", and its fields. Fields with defaults may be absent.

    Raises:
        UserError: the tower or a field is unknown, a field is missing, or a value has the wrong type or does not fit
            the others.
    """
    values = dict(description)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"a tower has the name {name!r}: choose one of {', '.join(sorted(registry))}")
    tower = lookup(dict(registry), name, "tower")
    fields = fields_of(tower)
    check_names(values, fields, f"field of the tower {name!r}")
    needed = {key for key, field in fields.items() if field.default is dataclasses.MISSING}
    if missing := sorted(needed - values.keys()):
        raise UserError(f"the tower {name!r} lacks {', '.join(missing)}: add them")
    for key, value in values.items():
        kind = KINDS[fields[key].type]
        if not kind.holds(value):
            raise UserError(f"the tower {name!r} has {key}={value!r}, which is not {kind.words}: change it")
    return tower(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def describe_tower(tower: nn.Module) -> dict[str, Any]:
    """Returns the description of a tower that JSON can hold; the inverse of ``make_tower``.

    Raises:
        UserError: the tower's class is in neither registry.
    """
    for name, known in (IMAGE_TOWERS | TEXT_TOWERS).items():
        if type(tower) is known:
            values = {key: getattr(tower, key) for key in fields_of(tower)}
            listed = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
            return {"name": name, **listed}
    raise UserError(f"{type(tower).__name__} is not a known tower: add it to IMAGE_TOWERS or TEXT_TOWERS")
