"""An LRU cache of compiled programs. It is bounded, because each program takes megabytes."""

from collections.abc import Callable, Hashable
from typing import Any


class Programs(dict[Hashable, Any]):
    """An LRU cache of programs by key.

    Args:
        max_programs: max number of cached programs.
    """

    def __init__(self, max_programs: int):
        super().__init__()
        self.max_programs = max_programs

    def find(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns the program of a key, and makes it if it is not cached.

        Args:
            key: key of the program.
            make: ``make()``: makes the program.
        """
        program = self.pop(key) if key in self else make()
        while len(self) >= self.max_programs:
            self.pop(next(iter(self)))
        # Inserted at the end of the dict, whose first entry is the least recently used.
        self[key] = program
        return program
