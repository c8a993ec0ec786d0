"""What all clients together, and each of them, may hold of something: bytes of bodies, photos that wait, publications.

What does not fit is refused at once: 429 where the client itself holds too much, 503 where all together do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from server.problem import HTTPProblem


class Shares:
    """Room of one kind, of which each client may hold a part; belongs to one event loop.

    Args:
        what: of which there is so much, in the plural, for an error.
        total: for all together.
        each: for one client.
        retry_seconds: what Retry-After says.
    """

    def __init__(self, what: str, total: int, each: int, retry_seconds: int) -> None:
        self._what, self._total, self._each, self._retry = what, total, each, retry_seconds
        self._held: Counter[str] = Counter()
        self.used = 0

    def take(self, client: str, amount: int) -> None:
        """Hold so much more.

        Raises:
            HTTPProblem: 429 the client has too much already; 503 there is no room.
        """
        if (held := self._held.get(client, 0)) + amount > self._each:
            raise HTTPProblem(429, f"{held} {self._what} of yours are held already: wait for them first", self._retry)
        if self.used + amount > self._total:
            raise HTTPProblem(503, f"{self.used} {self._what} are held, the server takes no more now: try again", self._retry)
        self._held[client] += amount
        self.used += amount

    def give(self, client: str, amount: int) -> None:
        """Hold so much less."""
        self._held[client] -= amount
        self.used -= amount
        if not self._held[client]:
            del self._held[client]  # clients that hold nothing take no memory

    @contextmanager
    def hold(self, client: str, amount: int) -> Iterator[None]:
        """Hold so much for a while; raises as `take`."""
        self.take(client, amount)
        try:
            yield
        finally:
            self.give(client, amount)
