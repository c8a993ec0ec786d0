"""Packs that are ready to answer: their class features, computed once, kept in memory by content.

What is kept is named by the pack's SHA-256 and the class names added to it, so nothing stale can be served. Class
features are computed on a few threads that take turns at the text encoder, a run each: whoever needs a large pack waits for it,
and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from edge_qprompt.backbone import IMAGE_WEIGHTS, TEXT_WEIGHTS, Backbone, mismatch
from edge_qprompt.classify import Answer, Classifier, Own, Tasks
from edge_qprompt.errors import NotFoundError, PackError
from edge_qprompt.pack import Pack
from server.catalogue import Catalogue, Target
from server.lru import Lru
from server.metrics import Metrics
from server.problem import HTTPProblem
from server.settings import Limits

GATHERING = 2  # requests that wait for packs at once, since each holds those that it has
THREADS = 5  # more than publications, so that one is left for labels
LABEL_BYTES = 64  # of a name and its place, about
STORED = 2  # bytes of weights in memory for one in a file, which has them in half precision
STACK_BYTES = 4096  # of a combination of tasks, beside its class features


Array = NDArray[np.float32]
log = structlog.get_logger("edge_qprompt.server")


@dataclass(frozen=True)
class Key:
    """What class features depend on, beside the backbone."""

    pack: str
    labels: tuple[str, ...] = ()


class Residents:
    """Packs made ready to classify, as many as memory allows; belongs to one event loop.

    Args:
        backbone: of all packs.
        catalogue: where packs come from.
        limits: of what is kept and what may wait.
        metrics: to be told.
    """

    def __init__(self, backbone: Backbone, catalogue: Catalogue, limits: Limits, metrics: Metrics) -> None:
        self._backbone, self._catalogue, self._limits, self._metrics = backbone, catalogue, limits, metrics
        self.kept: Lru[Key, Classifier] = Lru(limits.residents_bytes)
        self._packs: Lru[str, bytes] = Lru(limits.packs_bytes)
        self._coming: dict[Key, asyncio.Task[Classifier]] = {}
        self._stacks: Lru[tuple[tuple[str, Key], ...], Tasks] = Lru(limits.residents_bytes)
        self._gathering = asyncio.Semaphore(GATHERING)
        self._threads = ThreadPoolExecutor(THREADS, "text")

    async def pack(self, pack_id: str) -> bytes:
        """A pack's bytes.

        Raises:
            NotFoundError: there is none.
        """
        if (data := self._packs.get(pack_id)) is None:
            data = await self._catalogue.database.run(self._catalogue.pack, pack_id)
            self._packs.put(pack_id, data, len(data))
        return data

    async def classifier(self, key: Key, pack: Pack | None = None) -> Classifier:
        """The classifier of a pack.

        Args:
            key: which.
            pack: the pack itself, where the caller has it.

        Raises:
            EdgeQPromptError: the pack does not fit the backbone.
            NotFoundError: no such pack.
            HTTPProblem: 503 too many are waiting.
        """
        if (found := self.kept.get(key)) is not None:
            self._metrics.hits.inc()
            return found
        if key not in self._coming:
            if len(self._coming) >= self._limits.pending_packs:
                raise HTTPProblem(503, f"{len(self._coming)} packs are being prepared: try again", self._limits.retry_seconds)
            self._metrics.misses.inc()
            self._coming[key] = asyncio.create_task(self._load(key, pack))
        return await asyncio.shield(self._coming[key])  # others may wait for it too

    def mismatch(self, name: str, pack: Pack) -> str | None:
        """As `precision.mismatch`, on this server's backbone."""
        return mismatch(name, pack, self._backbone.precision, self._backbone.manifest.precisions)

    async def tasks(self, targets: Sequence[Target], labels: tuple[str, ...]) -> Tasks:
        """All targets as one classifier, each under its task's name.

        Raises:
            HTTPProblem: 422 they would not fit into memory; 503 too many are waiting.
        """
        names = tuple((target.task, Key(target.pack, labels)) for target in targets)
        here = all(key in self.kept for _, key in names)
        async with nullcontext() if here else self._gathering:
            classifiers = await self._gather(key for _, key in names)
        if (stack := self._stacks.get(names)) is None:
            stack = Tasks(self._backbone)
            for (name, _), classifier in zip(names, classifiers, strict=True):
                stack.add(name, classifier)
            # its own copy of class features and of what photos look like, and theirs
            copied = sum(classifier.class_features.nbytes + _looks(classifier) for classifier in classifiers)
            self._stacks.put(names, stack, STACK_BYTES + copied + sum(map(_size, classifiers)))
        return stack

    async def answer(self, tasks: Tasks, feature: Array, top: int, threshold: float | None, own: Own) -> dict[str, Answer]:
        """As `Tasks.answer`; where the text encoder has to run, on one of its threads."""
        if tasks.quick:
            return tasks.answer(feature, top, threshold, own)
        return await asyncio.get_running_loop().run_in_executor(self._threads, tasks.answer, feature, top, threshold, own)

    def close(self) -> None:
        """End the threads, which may be in the middle of thousands of names."""
        self._backbone.stop()
        self._threads.shutdown(cancel_futures=True)

    async def _gather(self, keys: Iterable[Key]) -> list[Classifier]:
        found, size, most = [], 0, self._limits.residents_bytes
        for key in keys:
            found.append(await self.classifier(key))
            size += _size(found[-1])
            if size > most:
                raise HTTPProblem(
                    422, f"these tasks take more than {most} bytes of memory, the limit: name fewer, or raise --cache-mb"
                )
        return found

    async def _load(self, key: Key, pack: Pack | None) -> Classifier:
        try:
            pack = pack or Pack.decode(await self.pack(key.pack))
            labels = tuple(dict.fromkeys((*(pack.class_names or ()), *key.labels)))
            make = asyncio.get_running_loop().run_in_executor
            adapter = await self._adapter(pack)
            classifier = await make(self._threads, Classifier, self._backbone, pack, labels, adapter)
            self.kept.put(key, classifier, _size(classifier))
            if said := self.mismatch(key.pack, pack):
                log.warning("another precision", pack=key.pack, warning=said)
            self._metrics.residents.set(len(self.kept))
            self._metrics.resident_bytes.set(self.kept.size)
            return classifier
        finally:
            del self._coming[key]

    async def _adapter(self, pack: Pack) -> Pack | None:
        """The pack with the adapter that a pack refers to, from the catalogue."""
        if pack.shared_adapter is None:
            return None
        try:
            return Pack.decode(await self.pack(pack.shared_adapter))
        except NotFoundError as error:
            raise PackError(f"the pack needs the adapter {pack.shared_adapter}, which is not here: publish that first") from error


def _size(classifier: Classifier) -> int:
    size = classifier.head.nbytes + LABEL_BYTES * len(classifier.labels) + _looks(classifier)
    if classifier.own_encoder:
        files = classifier.backbone.manifest.files
        size += STORED * sum(files[name].bytes for name in (IMAGE_WEIGHTS, TEXT_WEIGHTS) if name in files)
    return size


def _looks(classifier: Classifier) -> int:
    """Bytes of what photos of the labels look like."""
    return 0 if classifier.familiar is None else classifier.familiar.mean.nbytes
