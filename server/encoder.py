"""Photos to image features: decoded in a pool, gathered into batches, encoded in as many batches at a time as there are lanes.

While every lane is busy the next batch gathers, so batches grow with the load and a lone photo waits for
nobody. What is asked for is bounded: what does not fit is refused at once with 429 or 503.

Symbols: S pixels a side, D dimensions of a feature.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import DEFAULT_PRECISION, Backbone
from edge_qprompt.photo import decode_photo, to_pixels
from edge_qprompt.session import cores
from server.metrics import Metrics
from server.problem import Problem
from server.settings import Limits

Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Waiting:
    pixels: Array  # (3, S, S)
    feature: asyncio.Future[Array]  # (D,)


class PhotoEncoder:
    """See the module; belongs to one event loop.

    Args:
        backbone: whose image encoder.
        limits: of what may wait.
        metrics: to be told.
    """

    def __init__(self, backbone: Backbone, limits: Limits, metrics: Metrics) -> None:
        self._backbone, self._limits, self._metrics = backbone, limits, metrics
        # int8 made at run time takes its ranges from a whole batch: alone, a photo's features depend on nobody else's
        self._batch = limits.batch if backbone.precision == DEFAULT_PRECISION else 1
        decoders = cores()
        self._decoders = ThreadPoolExecutor(decoders, "decode")
        self._free = asyncio.Semaphore(decoders)  # so that waiting for one does not count as decoding
        self._lanes = backbone.lanes
        self._encoders = ThreadPoolExecutor(self._lanes, "encode")
        self._waiting: list[_Waiting] = []
        self._places: Counter[str] = Counter()
        self._workers: set[asyncio.Task[None]] = set()  # at most one a lane
        self._busy = 0  # lanes that encode

    @contextmanager
    def places(self, client: str, photos: int) -> Iterator[None]:
        """Keep room for some photos of a client.

        Raises:
            Problem: 503 there is none; 429 the client has too many already.
        """
        limits = self._limits
        if self._places.total() + photos > limits.pending_images:
            raise Problem(503, f"{self._places.total()} photos are waiting, the server takes no more now", limits.retry_seconds)
        if self._places[client] + photos > limits.client_images:
            raise Problem(429, f"{self._places[client]} photos of yours are waiting: wait for them first", limits.retry_seconds)
        self._places[client] += photos
        self._metrics.waiting.inc(photos)
        try:
            yield
        finally:
            self._places[client] -= photos
            self._places += Counter()  # drops clients with none
            self._metrics.waiting.dec(photos)

    async def encode(self, data: bytes, name: str) -> Array:
        """Image features (D,) float32, unit length, of an image file.

        Raises:
            PhotoError: it cannot be decoded.
            Problem: 422 decoding takes too long.
        """
        return await self._feature(await self._pixels(data, name))

    async def encode_with(self, encoder: Backbone, data: bytes, name: str) -> Array:
        """The same by a pack's own image encoder, in a lane. Pixels are not kept for it: decoding again is the lesser cost."""
        pixels = await self._pixels(data, name)
        encode = partial(encoder.encode_images, pixels[None], lane=True)
        (feature,) = await asyncio.get_running_loop().run_in_executor(self._encoders, encode)
        return cast(Array, feature)

    async def check(self) -> None:
        """Raise an error where decoders do not answer."""

    def close(self) -> None:
        """End the threads; what is asked for now is still done."""
        self._decoders.shutdown()
        self._encoders.shutdown()

    async def _pixels(self, data: bytes, name: str) -> Array:
        """(3, S, S) of an image file, in time."""
        loop = asyncio.get_running_loop()
        await self._free.acquire()
        decoding = self._decoders.submit(self._decode, data, name)
        decoding.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(decoding), self._limits.decode_seconds)
        except TimeoutError as error:
            raise Problem(
                422, f"{name} takes longer than {self._limits.decode_seconds:g} s to decode: shrink the photo"
            ) from error

    def _decode(self, data: bytes, name: str) -> Array:
        return to_pixels(decode_photo(data, name, self._limits.pixels), self._backbone.manifest.preprocess)

    async def _feature(self, pixels: Array) -> Array:
        """Image features (D,) of pixels (3, S, S)."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(pixels, loop.create_future())
        self._waiting.append(waiting)
        if len(self._workers) < self._lanes:
            self._workers.add(loop.create_task(self._run()))
        return await waiting.feature

    async def _run(self) -> None:
        """Encode until nobody waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                idle = self._lanes - self._busy  # this one among them: photos that are ready together share all of them
                size = min(self._batch, -(-len(self._waiting) // idle))
                batch, self._waiting = self._waiting[:size], self._waiting[size:]
                batch = [waiting for waiting in batch if not waiting.feature.done()]  # who has gone away needs no answer
                if batch:
                    self._busy += 1
                    self._answer(batch, await self._features(loop, batch))
        finally:
            self._workers.discard(cast(asyncio.Task[None], asyncio.current_task()))  # at once: the next photo must see it

    async def _features(self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting]) -> Array | Exception:
        try:
            return await loop.run_in_executor(self._encoders, self._encode, batch)
        except Exception as error:  # everyone in the batch has to hear of it
            return error
        finally:
            self._busy -= 1

    @staticmethod
    def _answer(batch: list[_Waiting], features: Array | Exception) -> None:
        for i, waiting in enumerate(batch):
            if waiting.feature.done():
                continue
            if isinstance(features, Exception):
                waiting.feature.set_exception(features)
            else:
                waiting.feature.set_result(features[i])

    def _encode(self, batch: list[_Waiting]) -> Array:
        self._metrics.batch.observe(len(batch))
        with self._metrics.encoder.time():
            return self._backbone.encode_images(np.stack([waiting.pixels for waiting in batch]), lane=True)  # (B, D)
