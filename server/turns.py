"""Places that clients take turns for: whoever has fewest gets the next one, then who has waited longest."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Places that clients take turns for: who has fewest gets the next one; belongs to one event loop.

    Args:
        places: how many there are.
        each: how many one client may have; None for all.
    """

    def __init__(self, places: int, each: int | None = None) -> None:
        self._free, self._each = places, each or places
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    async def take(self, client: str) -> None:
        """Wait for a place, and hold it until `give`."""
        if self._free and not self._waiting and self._held.get(client, 0) < self._each:  # the usual case, which need not wait
            self._free -= 1
            self._held[client] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((client, turn))
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came in the same moment
                self.give(client)
            else:
                self._waiting.remove((client, turn))
            raise

    def give(self, client: str) -> None:
        """Give a place back."""
        self._free += 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]  # clients that hold nothing take no memory
        self._next()

    @asynccontextmanager
    async def hold(self, client: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it for a while."""
        await self.take(client)
        try:
            yield
        finally:
            self.give(client)

    def _next(self) -> None:
        """Hand out what is free."""
        while self._free and (may := [each for each in self._waiting if self._may(*each)]):
            chosen = min(may, key=lambda each: self._held.get(each[0], 0))  # the first of equals
            self._waiting.remove(chosen)
            self._free -= 1
            self._held[chosen[0]] += 1
            chosen[1].set_result(None)

    def _may(self, client: str, turn: asyncio.Future[None]) -> bool:
        """Whether a client that waits can have a place; who has just gone away still stands in the line."""
        return not turn.done() and self._held.get(client, 0) < self._each
