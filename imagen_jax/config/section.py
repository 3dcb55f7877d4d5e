"""What every section of a config is: a frozen dataclass whose fields are keys."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of a config.

    Attributes:
        rest: name of the field that takes all keys without a field of their own; None if there are no such keys.
        free_to_change: keys whose values may change when a run resumes.
    """

    rest: ClassVar[str | None] = None
    free_to_change: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the values by key, those of ``rest`` among them."""
        values = dataclasses.asdict(self)
        return values | (values.pop(self.rest) if self.rest else {})
