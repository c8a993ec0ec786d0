"""A lock for threads that gives everyone a turn: who has waited longest gets it."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A lock that goes to whoever has waited longest.

    Python's own may be taken again and again by the thread that has just given it back.

        with lock:
            ...

    Raises:
        RuntimeError: on entering, once it is closed.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()  # the first one holds it
        self._closed = False

    def close(self) -> None:
        """Let nobody in any more: work of many turns ends with the one that it is in."""
        self._closed = True

    def __enter__(self) -> None:
        mine = threading.Lock()
        mine.acquire()
        with self._guard:
            self._waiting.append(mine)
            first = len(self._waiting) == 1
        if not first:
            mine.acquire()  # until the one before gives it back
        if self._closed:
            self.__exit__()
            raise RuntimeError("this lock is closed")

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._waiting.popleft()
            if self._waiting:
                self._waiting[0].release()
