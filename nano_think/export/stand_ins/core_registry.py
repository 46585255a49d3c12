"""Names that fill themselves when the modules that register them are imported."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Registry(dict[str, T]):
    """Name -> object."""

    def __init__(self, what: str, package: str):
        super().__init__()

    def register(self, name: str) -> Callable[[U], U]:
        def add(entry: U) -> U:
            self[name] = entry  # type: ignore[assignment]
            return entry

        return add
