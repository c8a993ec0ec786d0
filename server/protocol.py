"""HTTP/1.1 on a socket: uvicorn's h11, which bounds the size of a request's head, with a deadline for it.

uvicorn waits for ever for a head that comes byte by byte; its faster parser, httptools, does not bound it either.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
MAX_HEAD_BYTES = 16 << 10


class DeadlineProtocol(H11Protocol):
    """Closes a connection whose request's head is not complete in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection owes us a head."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Some bytes; between requests they begin the next head."""
        if self._idle():
            self._expect()
        super().data_received(data)
        if not self._idle() and self._head is not None:
            self._head.cancel()
            self._head = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        super().connection_lost(exc)
        if self._head is not None:
            self._head.cancel()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._late)

    def _late(self) -> None:
        self._head = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()
