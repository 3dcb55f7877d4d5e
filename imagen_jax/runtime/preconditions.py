"""What each flag and setting needs in order to have an effect, checked before anything is loaded.

names that were given, facts -> a table of preconditions -> nothing, or a sentence about the first that does not hold

A command lists its preconditions beside its flags and checks them first; those of sampling settings, which depend on
the stages, are in ``cascade.plans``.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from absl import flags

from imagen_jax.errors import UserError


class Precondition(NamedTuple):
    """What one flag or setting needs in order to have an effect.

    Attributes:
        name: of the flag or setting, as it is typed.
        holds: ``holds(facts)``: whether it has an effect.
        sentence: why it has none, and what to do.
    """

    name: str
    holds: Callable[[Any], Any]
    sentence: str


def check_preconditions(given: Collection[str], facts: Any, table: Sequence[Precondition]) -> None:
    """Checks the preconditions of all names that were given.

    Args:
        given: names; those that were not given are not checked.
        facts: what each ``holds`` looks at.
        table: the preconditions.

    Raises:
        UserError: one does not hold.
    """
    for one in table:
        if one.name in given and not one.holds(facts):
            raise UserError(one.sentence)


def given_flags() -> set[str]:
    """The names of the flags on the command line, also of those that were given their default."""
    return {name for name in flags.FLAGS if flags.FLAGS[name].present}


def check_flags(table: Sequence[Precondition]) -> None:
    """Checks the preconditions of the flags on the command line; facts are ``flags.FLAGS``.

    Raises:
        UserError: one does not hold.
    """
    check_preconditions(given_flags(), flags.FLAGS, table)
