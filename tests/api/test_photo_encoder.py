"""Photos of many requests in the lanes of one backbone."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from edge_qprompt import Backbone
from server.encoder import PhotoEncoder
from server.metrics import Metrics
from server.settings import Limits

BROKEN = 255  # the value of a view that the encoder fails at


class SlowLanes:
    """A backbone with two lanes whose encoder notes how many photos each call has, and lets a test hold it."""

    precision, lanes = "fp32", 2

    def __init__(self, nano: Backbone) -> None:
        self.manifest, self.sizes, self.go = nano.manifest, [], threading.Event()

    def encode_images(self, pixels: np.ndarray, *, lane: bool = False) -> np.ndarray:
        self.sizes.append(len(pixels))
        assert lane
        assert self.go.wait(10)
        values = self.manifest.preprocess.std[0] * pixels[:, 0, 0, :1] + self.manifest.preprocess.mean[0]
        values = (255 * values).round()  # what the views were
        if values[0] == BROKEN:
            raise RuntimeError("the encoder is broken")
        return values


def view(value: int) -> np.ndarray:
    return np.full((3, 2, 2), value, np.uint8)


def test_photos_that_are_ready_together_share_the_lanes_and_batches_grow_when_these_are_busy(nano: Backbone) -> None:
    backbone = SlowLanes(nano)

    async def ask(encoder: PhotoEncoder, count: int) -> list[float]:
        first = [asyncio.ensure_future(encoder._feature(view(i))) for i in range(2)]
        await asyncio.sleep(0.1)
        assert backbone.sizes == [1, 1]
        later = [asyncio.ensure_future(encoder._feature(view(i))) for i in range(2, count)]
        await asyncio.sleep(0.1)
        assert backbone.sizes == [1, 1]  # both lanes are busy
        backbone.go.set()
        found = [float(each[0]) for each in await asyncio.gather(*first, *later)]
        assert not encoder._workers
        assert not encoder._waiting
        return found

    encoder = PhotoEncoder(backbone, Limits(batch=2), Metrics())
    try:
        assert asyncio.run(ask(encoder, 8)) == list(range(8))
    finally:
        encoder.close()
    assert sum(backbone.sizes) == 8
    assert max(backbone.sizes) == 2


def test_an_encoder_that_fails_tells_everyone_and_goes_on(nano: Backbone) -> None:
    backbone = SlowLanes(nano)
    backbone.go.set()
    encoder = PhotoEncoder(backbone, Limits(batch=2), Metrics())

    async def ask() -> None:
        for _ in range(3):  # more often than there are lanes
            with pytest.raises(RuntimeError, match="broken"):
                await encoder._feature(view(BROKEN))
        assert float((await encoder._feature(view(5)))[0]) == 5

    try:
        asyncio.run(ask())
    finally:
        encoder.close()
