"""Interprets the module tree of a TorchScript archive, like ``torch_pickle`` a state dict, without executing it.

    object of class __torch__.Net: {"training": False, "conv": object of class __torch__.…Conv2d: {"weight": tensor}}
    -> {"conv.weight": tensor}

The classes of an archive are identified only by name. Their code is in the archive too, but is never read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from imagen_jax.weights.torch_pickle import (
    ACTIONS,
    KNOWN_NAMES,
    LITERALS,
    Grammar,
    Name,
    Stack,
    Tensor,
    call,
    set_attributes,
)

CONSTANTS = "constants.pkl"
"""The file that only a TorchScript archive contains."""

MAX_NAME_LENGTH = 500
"""The max number of characters of a tensor's dotted name, which includes the names of all modules around it."""

OWN_CLASSES = "__torch__"
INTEGERS = Name("torch.jit._pickle build_intlist")


@dataclass(eq=False)
class Module:
    """The contents of an object of one of the archive's own classes.

    Attributes:
        attributes: tensors, modules, and other values, by name.
    """

    attributes: dict[str, Any] = field(default_factory=dict)


def tensors_below(root: Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a module and its submodules, each with its dotted name. Ignores numbers and flags.

    Raises:
        ValueError: a module has two names, so that it is no tree; a small file could repeat one a billion times. Or a
            name is too long, for example because modules contain themselves.
    """
    seen = {root}
    # Not recursive: nested generators would pass each tensor up through all of its modules.
    below = [("", iter(root.attributes.items()))]
    while below:
        prefix, attributes = below[-1]
        for name, value in attributes:
            if len(prefix) + len(name) > MAX_NAME_LENGTH:
                raise ValueError(
                    f"the name that begins with {prefix[:60]}{name[:60]} has more than {MAX_NAME_LENGTH} characters"
                )
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, Module):
                if value in seen:
                    raise ValueError(f"the module {prefix}{name} has a second name")
                seen.add(value)
                below.append((f"{prefix}{name}.", iter(value.attributes.items())))
                break
        else:
            below.pop()


def is_own_class(name: str) -> bool:
    """Returns whether a name is that of a class whose code is in the archive."""
    return name.split(" ")[0].split(".")[0] == OWN_CLASSES


def make_module(stack: Stack) -> None:
    """Pops one of the archive's classes and no arguments, and pushes an empty module.

    Raises:
        ValueError: the class is not the archive's own, or there are arguments.
    """
    arguments, kind = stack.pop(), stack.pop()
    if not isinstance(kind, Name) or not is_own_class(kind.name) or arguments != ():
        raise ValueError("NEWOBJ makes something other than a module")
    stack.append(Module())


def set_module_attributes(stack: Stack) -> None:
    """Pops attributes and sets them on the module below them. Calls ``set_attributes`` for any other object.

    Raises:
        ValueError: the attributes of a module are not a dict.
    """
    attributes, target = stack[-1], stack[-2]
    if not isinstance(target, Module):
        set_attributes(stack)
        return
    if not isinstance(attributes, dict):
        raise ValueError("BUILD sets a module from something other than a dict")
    stack.pop()
    target.attributes.update(attributes)
    # Moved, not copied: a pickle could set one dict on a thousand modules, which would make a thousand copies.
    attributes.clear()


def call_or_pass_list(stack: Stack) -> None:
    """Replaces a call of ``build_intlist``, which only marks a type, by its list. Passes other calls to ``call``."""
    arguments, function = stack[-1], stack[-2]
    if function != INTEGERS:
        call(stack)
        return
    (integers,) = arguments
    stack[-2:] = [integers]


MODULE_TREE = Grammar(
    literals=LITERALS | {"BINFLOAT"},
    actions=ACTIONS | {"NEWOBJ": make_module, "BUILD": set_module_attributes, "REDUCE": call_or_pass_list},
    knows=lambda name: name in KNOWN_NAMES or name == INTEGERS.name or is_own_class(name),
)
