"""Unpickles the module tree of a TorchScript archive without executing it, as ``torch_pickle`` does for a state dict.

    object of class __torch__.Net: {"training": False, "conv": object of class __torch__.…Conv2d: {"weight": tensor}}
    -> {"conv.weight": tensor}

The classes of an archive are identified only by name. Their code is in the archive too, but is never read.
"""

from collections.abc import Iterator
from typing import Any

from imagen_jax.weights.torch_pickle import MAX_NAME_LENGTH, Function, Tensor, TensorUnpickler

CONSTANTS = "constants.pkl"
"""The file that only a TorchScript archive contains."""

OWN_CLASSES = "__torch__"


class Module:
    """The contents of an object of one of the archive's own classes.

    Attributes:
        attributes: tensors, modules, and other values, by name.
    """

    __slots__ = ("attributes",)
    attributes: dict[str, Any]

    def __new__(cls) -> "Module":
        """Returns an empty module. An unpickler does not call ``__init__``."""
        module = super().__new__(cls)
        module.attributes = {}
        return module

    def __setstate__(self, attributes: Any) -> None:
        if not isinstance(attributes, dict):
            raise TypeError("BUILD sets the state of a module to something other than a dict")
        self.attributes.update(attributes)
        # Moved, not copied: a pickle could set one dict on a thousand modules, which would make a thousand copies.
        attributes.clear()


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


def check_list(values: Any) -> list[Any]:
    """Returns a list as it is. PyTorch's ``build_intlist`` only marks its type.

    Raises:
        TypeError: it is not a list.
    """
    if not isinstance(values, list):
        raise TypeError("a list of integers is not a list")
    return values


class ModuleUnpickler(TensorUnpickler):
    """Python's unpickler, restricted to modules with tensors, numbers and lists of integers."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a name stands for: all of the archive's own classes stand for ``Module``.

        Raises:
            UserError: a tree of modules does not need the name.
        """
        if module.split(".")[0] == OWN_CLASSES:
            return Module
        if (module, name) == ("torch.jit._pickle", "build_intlist"):
            return Function(check_list)
        return super().find_class(module, name)
