"""What ``--config`` accepts: the name of a bundled config as well as a file, see ``config_files``."""

from absl import flags
from ml_collections import ConfigDict

from imagen_jax.runtime.config_files import read_config


class ConfigParser(flags.ArgumentParser):
    """Loads the config that ``--config`` names, with ``read_config``."""

    def parse(self, argument: str) -> ConfigDict:
        """Loads a config.

        Raises:
            UserError: there is no such config, or it can't be loaded.
        """
        return read_config(argument)

    def flag_type(self) -> str:
        """Returns the name of the type in absl's help."""
        return "config"


def accept_names(flag_values: flags.FlagValues) -> None:
    """Makes ``--config``, if it is among the flags, accept names of bundled configs, and files with their neighbours.

    The parser of ``config_flags``, which defines the flag and those of its keys, takes single files only.
    """
    if "config" in flag_values:
        flag_values["config"].parser = ConfigParser()
