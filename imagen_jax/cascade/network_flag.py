"""The flag ``--network``, of every command that loads a stage."""

from absl import flags

from imagen_jax.models import Network
from imagen_jax.runtime.own_classes import import_class

NETWORK = flags.DEFINE_string(
    "network",
    None,
    "Class of a network of your own that stages were trained with, as in my_package.my_file:Net.",
)


def read_network() -> type[Network] | None:
    """Imports the class in ``--network``; None if the flag is not given.

    Raises:
        UserError: it can't be imported.
    """
    return import_class(NETWORK.value) if NETWORK.value else None
