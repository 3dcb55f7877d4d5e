"""The flag ``--config``: a bundled config or a config file, and ``--config.SECTION.KEY`` for each of its keys."""

from absl import flags
from ml_collections import ConfigDict, config_flags

from imagen_jax.runtime.config_files import read_config

# The flag then belongs to the module of the command that calls define_config.
flags.disclaim_key_flags()

HELP = "A bundled config, as in own_images:base, or a config file, as in configs/mine.py:VARIANT."


class ConfigParser(flags.ArgumentParser):
    """Loads the config that ``--config`` names, with ``read_config``."""

    def parse(self, argument: str) -> ConfigDict:
        """Loads a config.

        Raises:
            UserError: there is no such config, or it can't be loaded.
        """
        return read_config(argument)

    def flag_type(self) -> str:
        """Returns the type's name in the help."""
        return "config"


def define_config(
    description: str = HELP, required: bool = True, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder:
    """Defines ``--config``, and returns its holder.

    Args:
        description: help text of the flag.
        required: whether the command needs it.
        flag_values: where to define it.
    """
    holder = config_flags.DEFINE_config_file("config", None, description, flag_values=flag_values)
    # The library's own parser takes files only, and can't import their neighbours.
    flag_values["config"].parser = ConfigParser()
    if required:
        flags.mark_flag_as_required("config", flag_values)
    return holder
