"""A process that decodes photos, spoken with in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from edge_qprompt.photos import PIXELS, REFUSED, SAYING, SIZE, Bytes, Decoder, Job, request

Said = tuple[bytes, bytearray]  # kind, and what followed


class Link(asyncio.BufferedProtocol):
    """What is said by a decoder's process, one answer at a time, read into place by the event loop: no thread waits for it.

    Whoever has taken a process over may say what it likes: what is not one answer to one question ends the link.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._head = bytearray(SAYING.size)
        self._at, self._kind = 0, b""
        self._more: bytearray | None = None  # what follows a head, of which there is as much as `_at` says
        self._most = 0
        self._sized: Callable[[int], None] | None = None  # until a size has been said
        self._answer: asyncio.Future[Said] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the process is there."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, job: Job, data: bytes, sized: Callable[[int], None]) -> asyncio.Future[Said]:
        """What the process says to a photo: kind and more, both empty where it has died."""
        answer = self._answer = asyncio.get_running_loop().create_future()
        self._most, self._sized = job.most_bytes, sized
        if self._transport is None:
            answer.set_result((b"", bytearray()))
        else:
            for piece in request(job, data):
                self._transport.write(piece)
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It has begun."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has died."""
        self._transport = None
        self._say(b"", bytearray())

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: the rest of a head, or of what follows it."""
        return memoryview(self._head if self._more is None else self._more)[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        """Some bytes more."""
        self._at += nbytes
        if self._answer is None or self._answer.done():
            self._end()
        elif self._more is None and self._at == len(self._head):
            self._begin(*SAYING.unpack(self._head))
        if self._more is not None and self._at == len(self._more):
            self._say(self._kind, self._more)

    def _begin(self, kind: bytes, count: int) -> None:
        """A head has come."""
        self._at, self._kind = 0, kind
        if kind == SIZE and self._sized is not None:
            sized, self._sized = self._sized, None
            sized(count)
        elif kind == SIZE or count > self._most:
            self._end()
        else:
            self._more = bytearray(count)

    def _end(self) -> None:
        self._at, self._more = 0, None
        if self._transport is not None:
            self._transport.abort()

    def _say(self, kind: bytes, more: bytearray) -> None:
        self._at, self._more = 0, None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((kind, more))


class Worker:
    """A decoder's process, spoken with in an event loop.

    Args:
        threads: for what blocks: its start, and looking why it died.
    """

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.decoder = Decoder()
        self._threads = threads
        self._link: Link | None = None

    async def start(self) -> None:
        """Start the process, if none runs.

        Raises:
            CostError, DataError: as of `Decoder.start`.
        """
        if self._link is not None and self._link.is_open and self.decoder.is_ready:
            return
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._renew)
        link = self._link = Link()
        await loop.create_unix_connection(lambda: link, sock=self.decoder.take_link())

    async def views(self, data: bytes, job: Job, sized: Callable[[int], None]) -> Bytes:
        """As of `Decoder.views`, of a process that has been started."""
        assert self._link
        kind, more = await self._link.ask(job, data, sized)
        if kind in (PIXELS, REFUSED):
            return self.decoder.judged(job, kind, more)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.decoder.judged, job, kind, more)

    def _renew(self) -> None:
        self.decoder.close()  # a process whose link has ended may still run
        self.decoder.start()

    def close(self) -> None:
        """End the process; blocks."""
        self.decoder.close()
