"""Registries that fill themselves from the files of a package: one new file is one new entry."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from nano_think.core.errors import UsageError, nearest

T = TypeVar("T")
U = TypeVar("U")


class Registry(Mapping[str, T]):
    """Name -> object, filled by a decorator in every module of `package`, in the order of the names.

    The modules are imported at the first look, so that whoever only imports the registry pays nothing.
    """

    def __init__(self, what: str, package: str):
        self.what = what
        self.package = package
        self._entries: dict[str, T] = {}
        self._filled = False

    def register(self, name: str) -> Callable[[U], U]:
        def add(entry: U) -> U:
            assert name not in self._entries, f"two {self.what}s are called {name!r}"
            self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return add

    def _fill(self) -> dict[str, T]:
        if not self._filled:
            package = importlib.import_module(self.package)
            for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
                importlib.import_module(f"{self.package}.{module.name}")
            # Whoever imported one of the modules before must not change the order.
            self._entries = dict(sorted(self._entries.items()))
            self._filled = True
        return self._entries

    def __getitem__(self, name: str) -> T:
        entries = self._fill()
        if name not in entries:
            raise UsageError(f"unknown {self.what} '{name}'.{nearest(name, entries)}")
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fill()

    def __iter__(self) -> Iterator[str]:
        return iter(self._fill())

    def __len__(self) -> int:
        return len(self._fill())
