"""HTTP/1.1 on a socket: uvicorn's h11, which bounds the size of a request's head, with deadlines in both directions.

uvicorn waits for ever for a head that comes byte by byte, and for a client that does not take its answer; its faster
parser, httptools, does not bound a head either. Both read a body in chunks of a byte to its end, and do nothing else meanwhile.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from server import problem
from server.client import network

HEAD_SECONDS = 10.0
MAX_HEAD_BYTES = 16 << 10
MAX_PIECES = 10_000  # of a body: a chunk of one byte takes as long as one of many thousand
TAKE_SECONDS = 20.0
TAKE_BYTES = 80_000  # of an answer that a client takes in that time, or it is hung up on: 4 kB/s
CLIENT_SHARE = 4  # a client may have this part of all connections
MAX_UNSENT_BYTES = 64 << 20  # of answers that clients have not taken, all together
LATER = {"Retry-After": "5", "Connection": "close"}
FULL = problem.Refusal(503, "too many connections are open: try again", LATER)
YOURS = problem.response(429, "too many connections of yours are open: close some, or wait", LATER)


class _Parser(h11.Connection):
    """h11 for bodies that do not come in crumbs."""

    _pieces = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._pieces += 1
            if self._pieces > MAX_PIECES:
                raise h11.RemoteProtocolError(f"a body in more than {MAX_PIECES} pieces")
        elif isinstance(event, h11.Request):
            self._pieces = 0
        return event


class DeadlineProtocol(H11Protocol):
    """Closes connections whose head does not come, or whose answer is not taken, in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Parser(h11.SERVER, MAX_HEAD_BYTES)
        self._most, self.limit_concurrency = self.limit_concurrency, None  # uvicorn's own refusal says not when to come back
        self._head: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._unsent = 0
        self.network: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection owes us a head; one too many of a client gets its answer at once, and holds nothing."""
        super().connection_made(transport)
        self.network = network(self.client[0]) if self.client else None
        if self._has_too_many():
            transport.write(_as_bytes(YOURS))
            transport.close()
        else:
            self._expect()

    def data_received(self, data: bytes) -> None:
        """Some bytes; between requests they begin the next head."""
        if self._idle():
            self._expect()
            self.app = FULL if self._most and len(self.connections) > self._most else self.config.loaded_app
        super().data_received(data)
        if not self._idle() and self._head is not None:
            self._head.cancel()
            self._head = None

    def pause_writing(self) -> None:
        """The client takes its answer more slowly than it is written."""
        super().pause_writing()
        self._expect_taken()
        self._make_room()

    def send_400_response(self, msg: str) -> None:
        """What cannot be read; it may come when the answer is on its way already, and the app must not send another."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """All of an answer is written, though perhaps not taken."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._expect_taken()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        super().connection_lost(exc)
        for timer in (self._head, self._taking):
            if timer is not None:
                timer.cancel()

    def _has_too_many(self) -> bool:
        """Whether this client has more than its share of connections; proxies that are trusted speak for many."""
        if not self._most or self.client is None or self.client[0] in self.config.loaded_app.trusted_hosts:
            return False
        mine = (each for each in self.connections if isinstance(each, DeadlineProtocol) and each.network == self.network)
        return sum(not each.transport.is_closing() for each in mine) > max(1, self._most // CLIENT_SHARE)

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._late)

    def _late(self) -> None:
        self._head = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()

    def _expect_taken(self) -> None:
        if self._taking is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._taking = self.loop.call_later(TAKE_SECONDS, self._look)

    def _look(self) -> None:
        """Hang up on a client that took too little."""
        self._taking = None
        left = self.transport.get_write_buffer_size()
        if left > self._unsent - TAKE_BYTES and left:
            self.transport.abort()
        elif left:
            self._expect_taken()

    def _make_room(self) -> None:
        """Hang up on those who have been slow for longest, if all together leave too much untaken."""
        slow = [each for each in self.connections if isinstance(each, DeadlineProtocol) and each._taking is not None]
        unsent = sum(each.transport.get_write_buffer_size() for each in slow)
        for each in sorted(slow, key=lambda each: each._taking.when() if each._taking else 0):
            if unsent <= MAX_UNSENT_BYTES:
                return
            unsent -= each.transport.get_write_buffer_size()
            each.transport.abort()


def _as_bytes(response: Response) -> bytes:
    """An answer as it goes over the wire, to someone who has not asked yet."""
    lines = [b"%s: %s" % (name.title(), value) for name, value in response.raw_headers]
    status = HTTPStatus(response.status_code)
    return b"\r\n".join([b"HTTP/1.1 %d %s" % (status, status.phrase.encode()), *lines, b"", bytes(response.body)])
