"""The methods by name: those in the files beside this one, and those of other packages, found by their entry points.

Files here load no torch (`edge_qprompt.learn.later`), so all can be listed and asked. Other packages' are loaded when asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points

from edge_qprompt.errors import PromptError
from edge_qprompt.learn.method import Method

GROUP = "edge_qprompt.methods"
OTHERS = range(128, 256)  # numbers of methods of other packages


class Methods(Mapping[str, type[Method]]):
    """The methods by name, those here first, in the order of their numbers.

    Raises:
        PromptError: two files here have one name or number.
    """

    @cached_property
    def ours(self) -> dict[str, type[Method]]:
        """Those here, by number."""
        package = __name__.rpartition(".")[0]
        modules = [f"{package}.{module.name}" for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
        return by_name(value for module in modules for value in vars(importlib.import_module(module)).values() if _is_one(value))

    @cached_property
    def _others(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP) if point.name not in self.ours}

    def __getitem__(self, name: str) -> type[Method]:
        if name in self.ours:
            return self.ours[name]
        method: type[Method] = self._others[name].load()
        if (number := getattr(method, "number", None)) not in OTHERS:
            free = f"packs of other packages' methods have one from {OTHERS[0]} to {OTHERS[-1]}"
            raise PromptError(f"the method {name} has the number {number}: {free}")
        return method

    def name(self, number: int) -> str | None:
        """The name of a pack's method; None for others than those here: many packages may have one number."""
        return next((name for name, method in self.ours.items() if method.number == number), None)

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in self._others

    def __iter__(self) -> Iterator[str]:
        return iter((*self.ours, *self._others))

    def __len__(self) -> int:
        return len(self.ours) + len(self._others)


def by_name(methods: Iterable[type[Method]]) -> dict[str, type[Method]]:
    """Methods by name, in the order of their numbers.

    Raises:
        PromptError: two have one name or one number; who inherits a number makes packs of the same kind, and may have it.
    """
    found: dict[str, type[Method]] = {}
    owners: dict[int, str] = {}
    for method in methods:
        if found.setdefault(method.name, method) is not method:
            raise PromptError(f"two methods have the name {method.name}: rename one")
        if "number" in vars(method) and owners.setdefault(method.number, method.name) != method.name:
            both = f"{owners[method.number]} and {method.name}"
            raise PromptError(f"the methods {both} have the number {method.number}: change one")
    return dict(sorted(found.items(), key=lambda item: item[1].number))


def _is_one(value: object) -> bool:
    """Whether something in a file is a method; others are what methods share."""
    return isinstance(value, type) and issubclass(value, Method) and "name" in vars(value)


METHODS = Methods()
