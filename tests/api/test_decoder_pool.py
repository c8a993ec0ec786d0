"""Who gets a decoder when, and what becomes of photos that take long."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import pytest
from common import DEMO
from hostile_photos import chunk, small_png
from servers import alive

from edge_qprompt.backbone.manifest import Preprocess
from edge_qprompt.errors import CostError, PhotoError
from edge_qprompt.photos.decoder import PIXELS, SAYING, SIZE, Job
from edge_qprompt.photos.photo import COMMON, centre_view, decode_photo
from server.decoder_worker import Link
from server.decoders import QUICK_SECONDS, DecoderPool
from server.problem import HTTPProblem

PHOTO = (DEMO / "test" / "bag" / "3.png").read_bytes()
SETTINGS = Preprocess(32, 32, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
JOB = Job("photo", SETTINGS, most_pixels=25_000_000, formats=COMMON)
SLOW = small_png(chunk(b"tEXt", b"a\0b") * 3_000_000)  # takes a decoder all of its processor time


@asynccontextmanager
async def pool(places: int = 1, seconds: float = 30.0) -> AsyncIterator[tuple[DecoderPool, list[str]]]:
    abandoned: list[str] = []
    made = DecoderPool(places, seconds, abandoned.append)
    await made.start()
    try:
        yield made, abandoned
    finally:
        processes = made.processes
        await asyncio.to_thread(made.close)
        await asyncio.sleep(0)
        assert not [pid for pid in processes if alive(pid)]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 100))


def test_a_photo_is_decoded() -> None:
    async def test() -> None:
        async with pool() as (decoders, abandoned):
            (view,) = await decoders.views("me", PHOTO, JOB)
            assert np.array_equal(view, centre_view(decode_photo(PHOTO), SETTINGS))
            with pytest.raises(PhotoError, match="not an image"):
                await decoders.views("me", b"hello", JOB)
            await decoders.check(JOB)
            assert abandoned == []

    run(test)


def test_a_photo_that_is_called_off_as_it_is_done_leaves_a_decoder_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with pool() as (decoders, _):
            done = decoders._done

            def call_off(*of: Any) -> None:
                done(*of)  # its decoder is free for others now
                asking.cancel()

            monkeypatch.setattr(decoders, "_done", call_off)
            asking = asyncio.create_task(decoders.views("me", PHOTO, JOB))
            with pytest.raises(asyncio.CancelledError):
                await asking
            monkeypatch.setattr(decoders, "_done", done)
            assert (await decoders.views("me", PHOTO, JOB)).shape == (1, 3, 32, 32)

    run(test)


def test_a_slow_photo_alone_may_take_its_time_and_is_refused_by_its_cost() -> None:
    async def test() -> None:
        async with pool() as (decoders, abandoned):
            with pytest.raises(CostError, match="longer to decode than a photo of its size"):
                await decoders.views("me", SLOW, JOB)
            assert abandoned == ["cpu"]

    run(test)


def test_the_next_photo_does_not_wait_for_slow_ones() -> None:
    """Also where both come from the same client, and more slow ones than there are places of any kind."""

    async def test() -> None:
        async with pool(places=1) as (decoders, abandoned):
            slow = [asyncio.create_task(decoders.views("me", SLOW, JOB)) for _ in range(4)]
            await asyncio.sleep(2 * QUICK_SECONDS)
            began = time.monotonic()
            await decoders.views("you", PHOTO, JOB)
            assert time.monotonic() - began < 20 * QUICK_SECONDS  # seconds of this processor for each slow one, otherwise
            for each in asyncio.as_completed(slow):
                with pytest.raises((HTTPProblem, CostError)):
                    await each
            assert set(abandoned) <= {"evicted", "cpu", "deadline"}
            assert "evicted" in abandoned

    run(test)


def test_who_is_ended_for_others_is_told_to_come_again() -> None:
    async def test() -> None:
        async with pool(places=1) as (decoders, _):
            first = asyncio.create_task(decoders.views("me", SLOW, JOB))
            rest = [asyncio.create_task(decoders.views("me", SLOW, JOB)) for _ in range(2)]
            with pytest.raises(HTTPProblem, match="others are waiting") as caught:
                await first
            assert (caught.value.status_code, caught.value.headers) == (503, {"Retry-After": "1"})
            for each in rest:
                each.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    run(test)


def test_who_leaves_gives_the_place_back_at_once() -> None:
    async def test() -> None:
        async with pool(places=1) as (decoders, abandoned):
            leaving = asyncio.create_task(decoders.views("me", SLOW, JOB))
            await asyncio.sleep(0.2)
            (pid,) = decoders.processes
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving
            await decoders.views("you", PHOTO, JOB)
            assert not alive(pid)
            assert abandoned == ["left"]

    run(test)


def test_the_deadline_counts_from_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.decoders.QUICK_SECONDS", 60.0)  # so that the first keeps its place

    async def test() -> None:
        async with pool(places=1, seconds=1.2) as (decoders, abandoned):
            waiting = asyncio.gather(*(decoders.views("me", SLOW, JOB) for _ in range(2)), return_exceptions=True)
            first, second = await waiting
            assert isinstance(first, CostError)
            assert "longer than 1.2 s" in str(first)
            assert isinstance(second, HTTPProblem)
            assert second.status_code == 503
            assert sorted(abandoned) == ["deadline", "waited"]

    run(test)


def test_closing_waits_for_nobody() -> None:
    async def test() -> None:
        async with pool(places=2) as (decoders, _):
            busy = [asyncio.create_task(decoders.views("me", SLOW, JOB)) for _ in range(5)]
            await asyncio.sleep(2 * QUICK_SECONDS)
            began = time.monotonic()
            await asyncio.to_thread(decoders.close)
            assert time.monotonic() - began < 2
            for each in busy:
                each.cancel()
            await asyncio.gather(*busy, return_exceptions=True)

    run(test)


class Wire(asyncio.Transport):
    """What a link writes to, and whether it was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        self.ended = True


def hear(link: Link, data: bytes) -> None:
    """As the event loop fills a link's buffers."""
    while data:
        buffer = link.get_buffer(-1)
        count = min(len(buffer), len(data))
        buffer[:count], data = data[:count], data[count:]
        link.buffer_updated(count)


ANSWER = SAYING.pack(PIXELS, 3 * 32 * 32) + bytes(range(256)) * 12
SAID = {
    "an answer": (ANSWER, False, True),
    "a size, then an answer": (SAYING.pack(SIZE, 7) + ANSWER, False, True),
    "two sizes": (SAYING.pack(SIZE, 7) * 2, True, False),
    "a thousand sizes": (SAYING.pack(SIZE, 7) * 1000, True, False),
    "more than a photo can be": (SAYING.pack(PIXELS, 1 << 60), True, False),
    "an answer, and more": (ANSWER + b"x", True, True),
    "two answers": (ANSWER * 2, True, True),
    "nothing of it": (b"\xff" * 100, True, False),
}


@pytest.mark.parametrize("case", SAID)
def test_whoever_has_taken_a_decoder_over_can_say_one_answer_and_no_more(case: str) -> None:
    data, ended, answered = SAID[case]

    async def test() -> None:
        for size in (len(data), 1):  # all at once, and byte by byte
            link, wire, sizes = Link(), Wire(), []
            link.connection_made(wire)
            answer = link.ask(JOB, PHOTO, sizes.append)
            for at in range(0, len(data), size):
                hear(link, data[at : at + size])
            assert (wire.ended, answer.done(), sizes in ([], [7])) == (ended, answered, True)
            if answered:
                assert answer.result() == (PIXELS, ANSWER[SAYING.size :])
            link.connection_lost(None)
            assert (link.is_open, answer.done()) == (False, True)

    run(test)


def test_what_comes_unasked_ends_the_link() -> None:
    async def test() -> None:
        link, wire = Link(), Wire()
        link.connection_made(wire)
        hear(link, ANSWER[:3])
        assert wire.ended

    run(test)


def test_a_decoder_whose_link_has_ended_is_replaced_though_it_runs() -> None:
    async def test() -> None:
        async with pool() as (decoders, _):
            (worker,), (pid,) = decoders._idle, decoders.processes
            os.kill(pid, signal.SIGSTOP)  # it does not notice
            worker._link._end()
            assert (await decoders.views("me", PHOTO, JOB)).shape == (1, 3, 32, 32)
            assert decoders.processes != [pid]

    run(test)


@pytest.mark.timeout(300)
def test_no_place_is_lost_however_clients_leave() -> None:
    async def test() -> None:
        rng = random.Random(0)
        async with pool(places=2) as (decoders, _):
            for _ in range(60):
                asked = [
                    asyncio.create_task(decoders.views(rng.choice("abc"), rng.choice([PHOTO, b"bad"]), JOB)) for _ in range(4)
                ]
                await asyncio.sleep(rng.choice([0, 0, 0.001, 0.01, 0.05]))
                for each in asked:
                    if rng.random() < 0.6:
                        each.cancel()
                found = await asyncio.gather(*asked, return_exceptions=True)
                assert not [each for each in found if isinstance(each, (asyncio.InvalidStateError, ValueError))]
            await asyncio.gather(*(decoders.views("d", PHOTO, JOB) for _ in range(4)))

    run(test)
