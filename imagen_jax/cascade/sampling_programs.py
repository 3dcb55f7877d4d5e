"""Compiled programs by what they were made for; each is megabytes, so the newest are kept."""

from collections.abc import Callable, Hashable
from typing import Any


class Programs(dict[Hashable, Any]):
    """Programs by their keys, of which those that were used last are kept.

    Args:
        most: programs that are kept.
    """

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def find(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The program of a key, made where there is none.

        Args:
            key: what it was made for.
            make: makes it.
        """
        program = self.pop(key) if key in self else make()
        while len(self) >= self.most:
            self.pop(next(iter(self)))
        # The last one is the newest.
        self[key] = program
        return program
