"""What a CLIP is, apart from its parameters: two towers, and how images and captions are prepared for them.

    description <-> JSON;   description -> image tower and text tower -> {"image": …, "text": …, "logit_scale": …}

It has no options of how a tower computes (``COMPUTE``), which a run chooses anew.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.clip.tokenizer import CLEANERS
from imagen_jax.clip.towers import IMAGE_TOWERS, TEXT_TOWERS, describe_tower, make_tower
from imagen_jax.errors import UserError, check_names, lookup
from imagen_jax.weights.json_settings import COUNT, FLAG, TEXT, Kind, check_kinds
from imagen_jax.weights.named_tensors import parameter_shapes

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of red, green and blue in CLIP's training data, for values in [0, 1], from its code."""

COMPUTE = {"remat", "scan", "dtype", "patch_dropout"}
"""Fields of towers that change how or how fast they compute, but neither the parameters nor what these mean."""

INTERPOLATIONS = {"bicubic": "BICUBIC", "bilinear": "BILINEAR"}
RESIZES = {"shortest": "the shorter side to the resolution, then the middle square", "squash": "both sides"}

LOGIT_SCALE, LOGIT_BIAS = "logit_scale", "logit_bias"


def normalise_images(
    images: Float[Array, "batch height width 3"], mean: Sequence[float], deviation: Sequence[float]
) -> Float[Array, "batch height width 3"]:
    """Maps images in [-1, 1] to what an image tower takes: [0, 1], minus the mean, divided by the deviation."""
    centre, scale = (jnp.asarray(values)[None, None, None] for values in (mean, deviation))
    return ((images + 1.0) / 2.0 - centre) / scale


def is_colour(value: Any) -> bool:
    """Returns whether a value is a list of three numbers."""
    numbers = isinstance(value, list | tuple) and len(value) == 3
    return numbers and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)


OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))
KINDS = {
    "image": OBJECT,
    "text": OBJECT,
    "embedding": COUNT,
    "mean": Kind("a list of three numbers", is_colour),
    "deviation": Kind("a list of three positive numbers", lambda value: is_colour(value) and min(value) > 0),
    "interpolation": TEXT,
    "resize": TEXT,
    "clean": TEXT,
    "stripped_token": TEXT,
    "logit_bias": FLAG,
}


@dataclass(frozen=True)
class Description:
    """The description of a CLIP. ``make_description`` makes one and checks it.

    Attributes:
        image: the name and fields of the image tower, without ``embedding`` and those of ``COMPUTE``.
        text: those of the text tower.
        embedding: the size of both towers' embeddings.
        mean: the mean of red, green and blue that is subtracted from pixels in [0, 1].
        deviation: the numbers that the difference is divided by.
        interpolation: how images are resized, a key of ``INTERPOLATIONS``.
        resize: which sides are resized, a key of ``RESIZES``.
        clean: how captions are cleaned before the tokenizer, a key of ``tokenizer.CLEANERS``.
        stripped_token: a token that becomes padding; "" for none.
        logit_bias: whether logits have a bias, as in SigLIP.
    """

    image: Mapping[str, Any]
    text: Mapping[str, Any]
    embedding: int
    mean: tuple[float, ...] = OPENAI_MEAN
    deviation: tuple[float, ...] = OPENAI_DEVIATION
    interpolation: str = "bicubic"
    resize: str = "shortest"
    clean: str = "lower"
    stripped_token: str = ""
    logit_bias: bool = False

    def make_image_tower(self, **compute: Any) -> nn.Module:
        """Returns the image tower.

        Args:
            compute: fields of ``COMPUTE``.

        Raises:
            UserError: the tower has no such field.
        """
        return make_tower(IMAGE_TOWERS, {**self.image, "embedding": self.embedding, **compute})

    def make_text_tower(self, **compute: Any) -> nn.Module:
        """Returns the text tower; the arguments are as in ``make_image_tower``."""
        return make_tower(TEXT_TOWERS, {**self.text, "embedding": self.embedding, **compute})

    def same_network(self, other: "Description") -> bool:
        """Returns whether both have the same towers, and so parameters of the same shapes and meaning."""
        mine, others = ((each.image, each.text, each.embedding, each.logit_bias) for each in (self, other))
        return mine == others

    def to_json(self) -> dict[str, Any]:
        """Returns the description as plain data; the inverse of ``read_description``."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {**lists, "image": dict(self.image), "text": dict(self.text)}


def make_description(image: Mapping[str, Any], text: Mapping[str, Any], embedding: int, **others: Any) -> Description:
    """Makes a description.

    Args:
        image: the name and fields of the image tower, in which fields with defaults may be absent.
        text: those of the text tower.
        embedding: the size of both towers' embeddings.
        others: other attributes of ``Description``.

    Raises:
        UserError: the towers can't be made, or an attribute has an unknown or invalid value.
    """
    return read_description({"image": image, "text": text, "embedding": embedding, **others})


def describe_towers(image: nn.Module, text: nn.Module, **others: Any) -> Description:
    """Returns the description of two towers, with other attributes of ``Description``.

    Raises:
        UserError: the embeddings of the towers differ in size, or as in ``make_description``.
    """
    of_image, of_text = describe_tower(image), describe_tower(text)
    sizes = of_image.pop("embedding"), of_text.pop("embedding")
    if sizes[0] != sizes[1]:
        raise UserError(f"the towers have embeddings of {sizes[0]} and {sizes[1]} numbers: make them equal")
    return make_description(of_image, of_text, sizes[0], **others)


def read_description(settings: Mapping[str, Any], where: object = "the description of a CLIP") -> Description:
    """Returns the description in plain data.

    Args:
        settings: the attributes of ``Description`` by name; those with defaults may be absent.
        where: the file, for error messages.

    Raises:
        UserError: a key is unknown or missing, or has an invalid value.
    """
    check_names(settings, KINDS, f"key of {where}")
    if missing := sorted({"image", "text", "embedding"} - settings.keys()):
        raise UserError(f"{where} lacks {', '.join(missing)}: add them")
    check_kinds(str(where), settings, KINDS)
    values = dict(settings)
    for name, registry in (("image", IMAGE_TOWERS), ("text", TEXT_TOWERS)):
        tower = make_tower(registry, {**settings[name], "embedding": settings["embedding"]})
        kept = describe_tower(tower).items()
        values[name] = {key: value for key, value in kept if key not in COMPUTE and key != "embedding"}
    for name, choices in (("interpolation", INTERPOLATIONS), ("resize", RESIZES), ("clean", CLEANERS)):
        if name in values:
            lookup(dict(choices), values[name], f"{name} of {where}")
    whole: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Description(**whole)


def shapes_of(description: Description) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape and dtype of each parameter of a CLIP by its path, such as ``image/layer_0/expand/bias``."""
    towers = {"image": description.make_image_tower(), "text": description.make_text_tower()}
    shapes: dict[str, jax.ShapeDtypeStruct] = {}
    for name, tower in towers.items():
        own = parameter_shapes(tower.init, jnp.asarray(tower.example_input()))
        shapes |= {f"{name}/{path}": shape for path, shape in own.items()}
    scalars = [LOGIT_SCALE, LOGIT_BIAS] if description.logit_bias else [LOGIT_SCALE]
    return shapes | {name: jax.ShapeDtypeStruct((), jnp.float32) for name in scalars}
