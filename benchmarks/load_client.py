"""A client that costs little: raw HTTP/1.1 on kept connections, in a process of its own.

    python benchmarks/load_client.py < job.json        prints one JSON object

A job is {"port", "requests": [base64 ..], "seconds", "connections"} for a closed loop, where each connection sends its next
request when the last one is answered. With "rate" as well it is an open loop: requests begin when they are due, whether
or not earlier ones are answered, and latency counts from then; the gaps between them are even, or with "random" exponential.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
LATEST = 30.0  # seconds that the last answers may take

Done = Callable[["Link", int, bool], None]


class Link(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, done: Done) -> None:
        self._done, self._data, self._busy = done, b"", False
        self._transport: Any = None  # uvloop's have no class of asyncio's
        self.began = 0.0

    @property
    def closed(self) -> bool:
        """Whether it is of no more use: the server hangs up on those that are idle."""
        return self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = transport

    def send(self, request: bytes, began: float) -> None:
        """Ask; the answer's latency counts from `began`."""
        self.began, self._busy = began, True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Some of an answer, or all of it."""
        self._data = self._data + data if self._data else data
        end = self._data.find(b"\r\n\r\n")
        if end < 0 or (length := LENGTH.search(self._data, 0, end + 2)) is None:
            return
        if len(self._data) >= end + 4 + int(length[1]):
            status, closes = int(self._data[9:12]), b"\r\nconnection: close\r\n" in self._data[: end + 4].lower()
            self._data, self._busy = b"", False
            self._done(self, status, not closes)

    def connection_lost(self, exc: Exception | None) -> None:
        """No answer will come."""
        if self._busy:
            self._done(self, 0, False)


class Load:
    """Requests in turn, and what became of them."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._port, self._seconds, self._rate = job["port"], job["seconds"], job.get("rate")
        self._requests = [base64.b64decode(each) for each in job["requests"]]
        self._connections, self._random = job["connections"], job.get("random", False)
        self._sent = 0
        self._free: list[Link] = []
        self._open = 0
        self._statuses: Counter[int] = Counter()
        self._latencies: list[float] = []
        self._end = 0.0
        self._last = 0.0

    async def run(self) -> dict[str, Any]:
        """All of it."""
        start = time.perf_counter()
        self._end = start + self._seconds
        await (self._open_loop() if self._rate else self._closed_loop())
        while self._open and time.perf_counter() < self._end + LATEST:
            await asyncio.sleep(0.01)
        # of a closed loop, until the last answer: those under way at the end are work that was done
        seconds = self._seconds if self._rate else self._last - start
        return {"statuses": self._statuses, "unanswered": self._open, "seconds": seconds, "latencies": self._latencies}

    async def _closed_loop(self) -> None:
        links = [await self._connect() for _ in range(self._connections)]
        for link in links:
            self._send(link, time.perf_counter())
        await asyncio.sleep(self._seconds)

    async def _open_loop(self) -> None:
        rng, due = random.Random(0), time.perf_counter()
        starting = set()
        while (due := due + (rng.expovariate(self._rate) if self._random else 1 / self._rate)) < self._end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            while self._free and self._free[-1].closed:
                self._free.pop()
            if self._free:
                self._send(self._free.pop(), due)
            else:
                task = asyncio.create_task(self._send_on_new(due))
                starting.add(task)
                task.add_done_callback(starting.discard)

    async def _send_on_new(self, due: float) -> None:
        self._send(await self._connect(), due)

    async def _connect(self) -> Link:
        _, link = await asyncio.get_running_loop().create_connection(lambda: Link(self._done), "127.0.0.1", self._port)
        return link

    def _send(self, link: Link, began: float) -> None:
        self._sent += 1
        self._open += 1
        link.send(self._requests[self._sent % len(self._requests)], began)

    def _done(self, link: Link, status: int, kept: bool) -> None:
        self._open -= 1
        self._last = now = time.perf_counter()
        self._statuses[status] += 1
        if status == 200:
            self._latencies.append(round(now - link.began, 5))
        if not kept:
            return
        if self._rate:
            self._free.append(link)
        elif now < self._end:
            self._send(link, now)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(Load(json.load(sys.stdin)).run())))
