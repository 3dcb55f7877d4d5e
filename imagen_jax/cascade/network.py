"""Builds the network of a stage from its config: one of ``models.NETWORKS``, or a class of the user's own."""

from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from imagen_jax.array_types import DTYPES
from imagen_jax.config.sections import NetworkConfig
from imagen_jax.errors import UserError, lookup, nearest_name
from imagen_jax.models import NETWORKS, Network
from imagen_jax.models.efficient_unet import EfficientUNet


def twice(network: Any, channels: int) -> bool:
    """Returns whether a network says that its output has twice the channels of its input."""
    return getattr(network, "out_channels", channels) == 2 * channels


def build(make: Callable[..., Any], fields: Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Calls ``make(**fields, **extra)``.

    Raises:
        UserError: ``make`` has no parameter for a key of ``fields``; names the key and the nearest parameter.
    """
    known = getattr(make, "__dataclass_fields__", None) or make.__annotations__
    known = [name for name in known if name not in ("parent", "name", "return", *extra)]
    for key in fields:
        if key not in known:
            raise UserError(f"unknown config key {where}.{key}{nearest_name(key, known)}")
    return make(**fields, **extra)


def build_network(
    config: NetworkConfig, network: type[Network] | None = None, noise_conditioning: str = "", **told: Any
) -> Network:
    """Builds the network ``config.name``, with what the stage tells it, such as the number of classes.

    Args:
        config: the section of the network.
        network: the class of a network of one's own; None for one of ``models.NETWORKS``.
        noise_conditioning: ``config.stage.noise_conditioning``, for a network that takes each kind; "" for its default.
        **told: further fields, for a network that has them.

    Raises:
        UserError: the name or a field is unknown, or the network can't be told what the stage tells it.
    """
    dtype = lookup(DTYPES, config.dtype, "network.dtype")
    if network is None and ":" in config.name:
        raise UserError(
            f"the network {config.name} is a class outside of this package, which is not imported from a saved config: "
            f"name it again, as in --network={config.name}, or load_cascade(…, network=MyNetwork) in Python"
        )
    given = "" if network is None else f"{network.__module__}:{network.__name__}"
    # A notebook's class has another module when a program defines it.
    if given and (":" not in config.name or config.name.split(":")[1] != given.split(":")[1]):
        raise UserError(
            f"config.network.name is {config.name!r}, and the class {given} is given: set the name to that of the "
            "class, by which sampling asks for it, or give the other class"
        )
    make = lookup(NETWORKS, config.name, "network") if network is None else network
    known = getattr(make, "__dataclass_fields__", {})
    for key in told:
        if network is None and key not in known:
            raise UserError(f"the network {config.name} can't be told {key}: choose another config.network.name")
    offered = {"dtype": dtype, **({"noise_conditioning": noise_conditioning} if noise_conditioning else {}), **told}
    extra = {key: value for key, value in offered.items() if key in known}
    fields = config.fields
    if network is not None:
        # A config that began as one of a U-Net still has its keys.
        fields = {key: value for key, value in fields.items() if key in known}
        left_out = sorted(config.fields.keys() - fields.keys())
        if left_out:
            logging.warning("%s has no fields of these keys of config.network: %s", config.name, ", ".join(left_out))
    built = build(make, fields, "network", **extra)
    if isinstance(built, EfficientUNet):
        check_levels(built)
    return built


def check_levels(network: EfficientUNet) -> None:
    """Checks that each list of a network has one entry per level.

    Raises:
        UserError: one has more or fewer; names the list.
    """
    levels = len(network.channels)
    for name in ("blocks", "strides", "self_attention", "cross_attention"):
        entries = len(getattr(network, name))
        if entries != levels:
            raise UserError(
                f"--config.network.{name} has {entries} entries for the {levels} levels of config.network.channels: "
                "give one per level"
            )
