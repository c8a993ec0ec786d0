"""Lines that must not flood: the first of a kind at once, then one a minute that says how many were kept back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MINUTE = 60.0


class Rarely:
    """Says when something may be said again; may be asked from many threads.

    Args:
        seconds: between two times of one kind.
        clock: seconds that only rise.
    """

    def __init__(self, seconds: float = MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._next: dict[str, float] = {}
        self._kept: dict[str, int] = {}
        self._lock = threading.Lock()

    def due(self, kind: str) -> int | None:
        """How many of this kind were kept back since the last time; None keeps this one back too.

        Args:
            kind: one of a few: each is remembered.
        """
        now = self._clock()
        with self._lock:
            if now < self._next.get(kind, now):
                self._kept[kind] = self._kept.get(kind, 0) + 1
                return None
            self._next[kind] = now + self._seconds
            return self._kept.pop(kind, 0)
