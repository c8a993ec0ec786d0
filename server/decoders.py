"""Processes that decode photos, and who gets one when.

Every photo begins in one of a few quick places, as many as there are cores. One that takes several times what a photo of its
size does gives its place to the next photo that waits for one, and goes on in a slow place, behind all other work. Where those
are full too, the photo that has been there longest, of the client that has most of them, is ended. So whoever sends files that
are hours of work takes them from nobody but himself: the next photo begins soon, and while nobody waits, nothing is ended.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from edge_qprompt.errors import CostError
from edge_qprompt.photos import Bytes, Job
from server.decoder_worker import Worker
from server.problem import HTTPProblem
from server.turns import Turns

QUICK_SECONDS = 0.4  # and for each megapixel, four times what a JPEG takes on a laptop:
QUICK_SECONDS_A_MEGAPIXEL = 0.06
LOOK_SECONDS = 0.05  # how often a photo that is past them looks whether somebody waits
CHECK_SECONDS = 5.0
CHECKER = "readyz"  # a client of its own
REASONS = ("memory", "cpu", "crash", "ended", "waited", "deadline", "evicted", "left")  # why a photo was given up
AGAIN_SECONDS = 1

Abandoned = Callable[[str], None]


@dataclass(eq=False)
class _Run:
    """A photo on its way.

    Attributes:
        began: when its decoder began with it, and the processor time that this one had taken by then; a decoder may have to be
            started first.
        pixels: as many as it says it has, as soon as that is known.
        slow: whether it has given up its quick place.
        evicted: whether it was ended for others.
        ended: whether its decoder has died or was killed, for whatever reason.
    """

    client: str
    worker: Worker
    began: tuple[float, float | None] | None = None
    pixels: int = 0
    slow: bool = False
    evicted: bool = False
    ended: bool = False

    @property
    def late(self) -> bool:
        """Whether it takes longer than a photo of its size should; one that merely gets no processor is not to blame."""
        allowed = QUICK_SECONDS + QUICK_SECONDS_A_MEGAPIXEL * self.pixels / 1e6
        if self.began is None or time.monotonic() - self.began[0] < allowed:
            return False
        before, now = self.began[1], self.worker.decoder.cpu_seconds
        return before is None or now is None or now - before > allowed / 2

    async def decode(self, data: bytes, job: Job) -> Bytes:
        """Its views."""
        await self.worker.start()
        self.began = time.monotonic(), self.worker.decoder.cpu_seconds
        return await self.worker.views(data, job, self._sized)

    def _sized(self, pixels: int) -> None:
        self.pixels = pixels

    def end(self) -> None:
        """Kill its decoder."""
        self.ended = True
        self.worker.decoder.kill()


class DecoderPool:
    """Processes that decode photos, and who gets one when; belongs to one event loop.

    Args:
        places: for photos that have just begun; half as many, and one at least, are for those that take long.
        seconds: for one photo, from when it is asked for.
        abandoned: told one of REASONS each time that a photo is given up.
    """

    def __init__(self, places: int, seconds: float, abandoned: Abandoned) -> None:
        self._places, self._slow_places = places, max(1, places // 2)
        self._seconds, self._abandoned = seconds, abandoned
        self._turns = Turns(places)
        self._runs: dict[_Run, None] = {}  # a set in order
        self._spares = 0  # one, from the first photo on that takes long: the next one shall find a decoder ready
        self._begun: dict[asyncio.Task[None], Worker] = {}  # those that start
        self._closed = False
        self._threads = ThreadPoolExecutor(3 * places + 1, "decode")
        self._idle = [Worker(self._threads) for _ in range(places)]

    @property
    def processes(self) -> list[int]:
        """Ids of those that run now."""
        workers = [*self._idle, *(run.worker for run in self._runs)]
        return [worker.decoder.pid for worker in workers if worker.decoder.pid is not None]

    async def start(self) -> None:
        """Start one for each place, all at once."""
        await asyncio.gather(*(worker.start() for worker in self._idle))

    async def check(self, job: Job) -> None:
        """Decode something.

        Raises:
            Exception: it does not work, or takes too long.
        """
        async with asyncio.timeout(CHECK_SECONDS):
            await self.views(CHECKER, _something(), job)

    async def views(self, client: str, data: bytes, job: Job) -> Bytes:
        """As `Decoder.views`, in time.

        Raises:
            PhotoError: it cannot be decoded, or takes more than it may.
            HTTPProblem: 503 no decoder was free in time, or others needed this one.
        """
        asked, begun = time.monotonic(), None
        try:
            async with asyncio.timeout(self._seconds):
                await self._turns.take(client)
                begun = time.monotonic()
                return await self._decode(client, data, job)
        except TimeoutError as error:
            if begun is None or begun - asked > self._seconds / 2:  # the photo is not to blame
                self._abandoned("waited")
                raise HTTPProblem(503, f"no decoder was free within {self._seconds:g} s: try again", AGAIN_SECONDS) from error
            self._abandoned("deadline")
            said = f"{job.name} takes longer than {self._seconds:g} s to decode: shrink the photo"
            raise CostError(said, "deadline") from error
        except asyncio.CancelledError:
            if begun is not None:
                self._abandoned("left")
            raise

    def close(self) -> None:
        """End all processes, whatever they do."""
        self._closed = True
        for run in self._runs:
            run.end()
        self._threads.shutdown()
        for worker in (*self._idle, *self._begun.values(), *(run.worker for run in self._runs)):
            worker.close()

    async def _decode(self, client: str, data: bytes, job: Job) -> Bytes:
        """Decode in a place that is held already."""
        run = _Run(client, self._idle.pop() if self._idle else Worker(self._threads))
        self._runs[run] = None
        asyncio.get_running_loop().call_later(QUICK_SECONDS, self._look, run)
        try:
            return await run.decode(data, job)
        except CostError as error:
            run.ended = True
            if not run.evicted:
                self._abandoned(error.reason)
                raise
            self._abandoned("evicted")
            said = f"{job.name} takes long to decode, and others are waiting: try again, or save it as an ordinary JPEG"
            raise HTTPProblem(503, said, AGAIN_SECONDS) from error
        except asyncio.CancelledError:  # its time is up, or its client has left
            run.end()
            raise
        finally:
            self._done(run)

    def _done(self, run: _Run) -> None:
        """A photo's decoder has nothing to do any more."""
        del self._runs[run]
        if self._closed:
            run.worker.close()
            return
        if run.slow or run.ended:  # it is dead, or behind all others for good
            self._threads.submit(run.worker.close)
        else:
            self._idle.append(run.worker)
        self._refill()
        if not run.slow:
            self._turns.give(run.client)

    def _look(self, run: _Run) -> None:
        """Is a photo late, and does somebody wait for its place?"""
        if run not in self._runs or self._closed:
            return
        if run.late:
            self._spares = 1
            self._refill()
        if run.late and self._turns.waiting:
            self._slow_down(run)
        else:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look, run)

    def _slow_down(self, run: _Run) -> None:
        """Let the next photo have this one's place."""
        slow = [each for each in self._runs if each.slow and not each.ended]  # in the order in which they began
        if len(slow) >= self._slow_places:
            _evict(slow)
        run.slow = True
        run.worker.decoder.nice()
        self._refill()
        self._turns.give(run.client)

    def _refill(self) -> None:
        """Have a decoder for each quick place, and the spare."""
        loop, quick = asyncio.get_running_loop(), sum(not run.slow for run in self._runs)
        for _ in range(self._places + self._spares - len(self._idle) - quick - len(self._begun)):
            worker = Worker(self._threads)
            started = loop.create_task(worker.start())
            self._begun[started] = worker
            started.add_done_callback(self._started)

    def _started(self, ended: asyncio.Task[None]) -> None:
        """One more is ready, or failed: then the next photo tries again, and says why."""
        worker = self._begun.pop(ended)
        if ended.cancelled() or ended.exception() is not None:
            return
        if self._closed:
            worker.close()
            return
        self._idle.append(worker)


def _evict(slow: list[_Run]) -> None:
    """End the first run of the client that has most of them."""
    counts = Counter(run.client for run in slow)
    chosen = max(slow, key=lambda run: counts[run.client])  # the first of equals
    chosen.evicted = True
    chosen.end()


def _something() -> bytes:
    """A small PNG."""
    with io.BytesIO() as file:
        Image.new("RGB", (8, 8)).save(file, "PNG")
        return file.getvalue()
