"""The tree of modules in a TorchScript archive, followed as ``torch_pickle`` follows a state dict: nothing is executed.

    object of class __torch__.Net: {"training": False, "conv": object of class __torch__.…Conv2d: {"weight": tensor}}
    -> {"conv.weight": tensor}

A class of the archive is known by its name alone: it is code in the archive, which nobody reads here.
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
"""The file that only an archive of TorchScript has."""

OWN_CLASSES = "__torch__"
INTEGERS = Name("torch.jit._pickle build_intlist")


@dataclass(eq=False)
class Module:
    """What an object of the archive's own classes holds.

    Attributes:
        attributes: by name: tensors, further modules, and values that are neither.
    """

    attributes: dict[str, Any] = field(default_factory=dict)


def tensors_below(module: Module, prefix: str = "", seen: set[Module] | None = None) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module and of those below it, each with its dotted name; numbers and flags are passed over.

    Args:
        module: the root.
        prefix: of the names.
        seen: modules that were met.

    Raises:
        ValueError: a module is met twice, as no tree has it; a small file could have it a billion times.
        RecursionError: the tree is a thousand modules deep.
    """
    seen = set() if seen is None else seen
    if module in seen:
        raise ValueError(f"the module {prefix.removesuffix('.')} has a second name")
    seen.add(module)
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Module):
            yield from tensors_below(value, f"{prefix}{name}.", seen)


def is_own_class(name: str) -> bool:
    """Whether a name is of a class whose code the archive brings."""
    return name.split(" ")[0].split(".")[0] == OWN_CLASSES


def make_module(stack: Stack) -> None:
    """Makes an empty module where an object of one of the archive's classes is asked for.

    Raises:
        ValueError: the class is another, or is given arguments.
    """
    arguments, kind = stack.pop(), stack.pop()
    if not isinstance(kind, Name) or not is_own_class(kind.name) or arguments != ():
        raise ValueError("NEWOBJ makes what is no module")
    stack.append(Module())


def set_module_attributes(stack: Stack) -> None:
    """Gives a module what it holds; of anything else see ``set_attributes``.

    Raises:
        ValueError: what it should hold has no names.
    """
    attributes, target = stack[-1], stack[-2]
    if not isinstance(target, Module):
        set_attributes(stack)
        return
    if not isinstance(attributes, dict):
        raise ValueError("BUILD gives a module what has no names")
    stack.pop()
    target.attributes.update(attributes)


def call_or_pass_list(stack: Stack) -> None:
    """Leaves a list of integers as it is, since it only says of what type it is; of other calls see ``call``."""
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
