"""Photos to image features: decoded by processes, gathered into batches, encoded in as many batches at a time as there are lanes.

While every lane is busy the next batch gathers, so batches grow with the load and a lone photo waits for
nobody. What is asked for is bounded: what does not fit is refused at once with 429 or 503.

Symbols: S pixels a side, D dimensions of a feature.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import DEFAULT_PRECISION, Backbone, cores
from edge_qprompt.photos import COMMON, Bytes, Job, normalise
from server.decoders import DecoderPool
from server.metrics import Metrics
from server.settings import Limits
from server.shares import Shares

Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Waiting:
    view: Bytes  # (3, S, S)
    feature: asyncio.Future[Array]  # (D,)


class PhotoEncoder:
    """Photos to image features, in batches that grow with the load; belongs to one event loop.

    Args:
        backbone: whose image encoder.
        limits: of what may wait.
        metrics: to be told.
    """

    def __init__(self, backbone: Backbone, limits: Limits, metrics: Metrics) -> None:
        self._backbone, self._limits, self._metrics = backbone, limits, metrics
        # int8 made at run time takes its ranges from a whole batch: alone, a photo's features depend on nobody else's
        self._batch = limits.batch if backbone.precision == DEFAULT_PRECISION else 1
        self.decoders = DecoderPool(cores(), limits.decode_seconds, lambda reason: metrics.abandoned.labels(reason).inc())
        self._lanes = backbone.lanes
        self._encoders = ThreadPoolExecutor(self._lanes, "encode")
        self._waiting: list[_Waiting] = []
        self._places = Shares("photos", limits.pending_images, limits.client_images, limits.retry_seconds)
        self._workers: set[asyncio.Task[None]] = set()  # at most one a lane
        self._busy = 0  # lanes that encode

    @contextmanager
    def places(self, client: str, photos: int) -> Iterator[None]:
        """Keep room for some photos of a client.

        Raises:
            HTTPProblem: 503 there is none; 429 the client has too many already.
        """
        with self._places.hold(client, photos):
            self._metrics.waiting.inc(photos)
            try:
                yield
            finally:
                self._metrics.waiting.dec(photos)

    async def encode(self, client: str, data: bytes, name: str) -> Array:
        """Image features (D,) float32, unit length, of an image file.

        Raises:
            PhotoError: it cannot be decoded, or takes too much.
            HTTPProblem: 503 no decoder was free in time.
        """
        return await self._feature(await self._view(client, data, name))

    async def encode_with(self, encoder: Backbone, client: str, data: bytes, name: str) -> Array:
        """The same by an image encoder that is named, e.g. a pack's own, in a lane and in no batch.

        Pixels are not kept for it: decoding again is the lesser cost.
        """
        view = await self._view(client, data, name)
        encode = partial(encoder.encode_images, self._normalised([view]), lane=True)
        (feature,) = await asyncio.get_running_loop().run_in_executor(self._encoders, encode)
        return cast(Array, feature)

    async def check(self) -> None:
        """Decode something.

        Raises:
            Exception: decoders do not answer.
        """
        await self.decoders.check(self._job("a test"))

    def close(self) -> None:
        """End decoders and threads; what is in the encoder now is still done."""
        self.decoders.close()
        self._encoders.shutdown(cancel_futures=True)

    async def _view(self, client: str, data: bytes, name: str) -> Bytes:
        """(3, S, S) of an image file."""
        (view,) = await self.decoders.views(client, data, self._job(name))
        return cast(Bytes, view)

    def _job(self, name: str) -> Job:
        return Job(name, self._backbone.manifest.preprocess, most_pixels=self._limits.pixels, formats=COMMON)

    def _normalised(self, views: Sequence[Bytes]) -> Array:
        """(B, 3, S, S)."""
        return normalise(np.stack(views), self._backbone.manifest.preprocess)

    async def _feature(self, view: Bytes) -> Array:
        """Image features (D,) of a view (3, S, S)."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(view, loop.create_future())
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
            return self._backbone.encode_images(self._normalised([waiting.view for waiting in batch]), lane=True)  # (B, D)
