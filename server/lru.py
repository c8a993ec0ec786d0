"""A cache that is bounded in bytes and forgets what was used least recently."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class Entry(Generic[V]):
    """A value, its size in bytes and how often it was asked for."""

    value: V
    size: int
    uses: int = 0


class Lru(Generic[K, V]):
    """A cache bounded in bytes, which forgets what was used least recently.

    Args:
        limit: bytes; a single value that is larger is not kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[K, Entry[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def items(self) -> Iterator[tuple[K, Entry[V]]]:
        """All entries, the most recently used last."""
        return iter(tuple(self._entries.items()))

    def get(self, key: K) -> V | None:
        """A value that is kept, else None."""
        if (entry := self._entries.get(key)) is None:
            return None
        self._entries.move_to_end(key)
        entry.uses += 1
        return entry.value

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of `size` bytes, at the cost of others."""
        if (old := self._entries.pop(key, None)) is not None:
            self.size -= old.size
        if size > self.limit:
            return
        self._entries[key] = Entry(value, size)
        self.size += size
        while self.size > self.limit:
            _, dropped = self._entries.popitem(last=False)
            self.size -= dropped.size
