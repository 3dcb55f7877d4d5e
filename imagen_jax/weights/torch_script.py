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

MAX_NAME_LENGTH = 500
"""Characters of a tensor's name with those of the modules that it lies in, each of which may be in many names."""

OWN_CLASSES = "__torch__"
INTEGERS = Name("torch.jit._pickle build_intlist")


@dataclass(eq=False)
class Module:
    """What an object of the archive's own classes holds.

    Attributes:
        attributes: by name: tensors, further modules, and values that are neither.
    """

    attributes: dict[str, Any] = field(default_factory=dict)


def tensors_below(root: Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module and of those below it, each with its dotted name; numbers and flags are passed over.

    Raises:
        ValueError: a module is met twice, as no tree has it; a small file could have it a billion times. Or a name is
            too long, as it is where modules lie in each other without end.
    """
    seen = {root}
    # Not recursive: each tensor would be handed up through all modules that it lies in.
    below = [("", iter(root.attributes.items()))]
    while below:
        prefix, attributes = below[-1]
        for name, value in attributes:
            if len(prefix) + len(name) > MAX_NAME_LENGTH:
                raise ValueError(
                    f"what begins with {prefix[:60]}{name[:60]} has a name of over {MAX_NAME_LENGTH} characters"
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
    # Moved, not copied: a dict that a thousand modules are given would be a thousand dicts.
    attributes.clear()


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
