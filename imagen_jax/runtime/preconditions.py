"""Preconditions of flags and settings: a flag without an effect is an error, before anything is loaded.

names that were given, facts -> a table of preconditions -> nothing, or an error about the first one that fails

A command lists its preconditions beside its flags and checks them first. The preconditions of sampling settings depend
on the stages and are in ``cascade.plans``.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from absl import flags

from imagen_jax.errors import UserError


class Precondition(NamedTuple):
    """A condition under which a flag or setting has an effect.

    Attributes:
        name: name of the flag or setting, as the user types it.
        holds: function of the facts that returns whether the flag or setting has an effect.
        sentence: error message: why it has no effect, and what to do.
    """

    name: str
    holds: Callable[[Any], Any]
    sentence: str


def check_preconditions(given: Collection[str], facts: Any, table: Sequence[Precondition]) -> None:
    """Checks the preconditions of all given names.

    Args:
        given: names that the user has given. Other names are not checked.
        facts: argument of each ``holds``.
        table: the preconditions.

    Raises:
        UserError: a precondition fails.
    """
    for one in table:
        if one.name in given and not one.holds(facts):
            raise UserError(one.sentence)


def given_flags() -> set[str]:
    """Returns the names of the flags on the command line, including flags that were set to their default."""
    return {name for name in flags.FLAGS if flags.FLAGS[name].present}


def check_flags(table: Sequence[Precondition]) -> None:
    """Checks the preconditions of the flags on the command line, with ``flags.FLAGS`` as facts.

    Raises:
        UserError: a precondition fails.
    """
    check_preconditions(given_flags(), flags.FLAGS, table)
