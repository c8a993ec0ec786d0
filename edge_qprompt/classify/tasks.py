"""Many packs on one backbone: a photo is encoded once, whatever their number.

Symbols: B photos, C classes, D dimensions of a feature, N tasks, S classes of all stacked tasks together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify.classifier import Classifier, Prediction, pixels_of
from edge_qprompt.classify.head import Fixed
from edge_qprompt.errors import FingerprintError, PackError
from edge_qprompt.pack import Pack
from edge_qprompt.photos import AnyPhoto

T = TypeVar("T")
Array = NDArray[np.float32]
Own = Mapping[Backbone, Array]  # features by packs' own encoders
NONE: Own = MappingProxyType({})


@dataclass(frozen=True)
class _Stack:
    """Tasks with fixed class features as one matrix, each task's classes in a row of their own.

    Attributes:
        names: N tasks.
        labels: (S,) class names.
        class_features: (S, D) float32, unit length.
        offsets: (S,) float32, added to the cosines.
        starts: (N,) int64, the first class of each task.
        counts: (N,) int64, the classes of each task, at least 1.
    """

    names: tuple[str, ...]
    labels: NDArray[np.object_]
    class_features: Array
    offsets: Array
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, tasks: Mapping[str, tuple[Fixed, tuple[str, ...]]]) -> _Stack:
        """Stack at least one task: its head and its labels."""
        counts = np.array([len(labels) for _, labels in tasks.values()], np.int64)
        labels = np.array([label for _, names in tasks.values() for label in names], object)
        features = np.concatenate([head.class_features for head, _ in tasks.values()])
        offsets = np.concatenate([head.offsets for head, _ in tasks.values()])
        return cls(tuple(tasks), labels, features, offsets, np.cumsum(counts) - counts, counts)

    def softmax(self, logits: Array) -> Array:
        """Softmax of (B, S) within each task, (B, S) float32."""
        highest = np.maximum.reduceat(logits, self.starts, axis=1)  # (B, N)
        shifted = np.exp(logits - np.repeat(highest, self.counts, axis=1))
        sums = np.add.reduceat(shifted, self.starts, axis=1)  # (B, N)
        return np.asarray(shifted / np.repeat(sums, self.counts, axis=1), np.float32)

    def rank(self, probabilities: Array, top: int) -> dict[str, list[Prediction]]:
        """The `top` labels of each task for one row of probabilities (S,), best first."""
        task = np.repeat(np.arange(len(self.names)), self.counts)  # (S,)
        # by task, then best first: bits of floats from 0 on are ordered as they are; ties stay in the order of the labels
        order = np.argsort((task << 32) - probabilities.view(np.int32), kind="stable")
        best = order[np.arange(len(order)) - self.starts[task] < top]
        pairs = zip(self.labels[best].tolist(), probabilities[best].tolist(), strict=True)
        found = list(map(tuple.__new__, repeat(Prediction), pairs))  # as Prediction._make, without a Python frame each
        ends = np.cumsum(np.minimum(self.counts, top)).tolist()
        return {name: found[start:end] for name, start, end in zip(self.names, [0, *ends], ends, strict=False)}


@dataclass(frozen=True)
class _Parts:
    """All tasks.

    Attributes:
        names: in their order.
        stack: those that are computed together, if there are any.
        apart: the others.
    """

    names: tuple[str, ...]
    stack: _Stack | None
    apart: Mapping[str, Classifier]

    @classmethod
    def of(cls, tasks: Mapping[str, Classifier]) -> _Parts:
        """Part them."""
        together = {
            name: (task.head, task.labels)
            for name, task in tasks.items()
            if isinstance(task.head, Fixed) and not task.own_encoder
        }
        apart = {name: task for name, task in tasks.items() if name not in together}
        return cls(tuple(tasks), _Stack.of(together) if together else None, apart)

    def ordered(self, found: dict[str, T]) -> dict[str, T]:
        """Results by task, in the tasks' order."""
        return {name: found[name] for name in self.names} if self.apart else found


class Tasks:
    """Labels photos with many packs of one backbone, at little more than the cost of one.

    Class features are computed once, when a task is added, and stacked at the first photo after a
    change. May be used from several threads. Two kinds of packs cost more than their part of one
    product: a CoCoOp pack, a pass of the text encoder a photo; one with an image encoder of its own,
    a pass of that.

        tasks = Tasks(backbone)
        tasks.add("flowers", Pack.open("flowers.qpk"))
        tasks.add("birds", Pack.open("birds.qpk"))
        tasks.classify("new.jpg")["birds"][0].label

    Args:
        backbone: of all packs.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._tasks: dict[str, Classifier] = {}
        self._parts: _Parts | None = None
        self._lock = threading.Lock()  # tasks and parts change together

    def __repr__(self) -> str:
        return f"<Tasks: {len(self)} on {self.backbone.manifest.name}>"

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._tasks))

    def add(self, name: str, task: Classifier | Pack) -> None:
        """Add a task under a name of its own.

        Raises:
            FingerprintError: it belongs to another backbone.
            PackError: the name is taken, or the pack holds no class names: make a `Classifier` with labels.
            PromptError: a class name does not fit the context.
        """
        self._check_free(name)  # before the text tower's work, and again after it
        classifier = Classifier(self.backbone, task) if isinstance(task, Pack) else task
        theirs, mine = classifier.backbone.manifest, self.backbone.manifest
        if theirs.fingerprint != mine.fingerprint:
            raise FingerprintError(f"task {name!r} is on backbone {theirs.name}, the others are on {mine.name}: keep them apart")
        with self._lock:
            self._check_free(name)
            self._tasks[name], self._parts = classifier, None

    def remove(self, name: str) -> None:
        """Take a task away.

        Raises:
            PackError: there is no such task.
        """
        with self._lock:
            if name not in self._tasks:
                raise PackError(f"there is no task {name!r}, there are {len(self._tasks)} others: add it first")
            del self._tasks[name]
            self._parts = None

    @property
    def encoders(self) -> tuple[Backbone, ...]:
        """The packs' own image encoders; `rank` and `probabilities` want features of each."""
        return tuple(task.backbone for task in self._parted().apart.values() if task.own_encoder)

    @property
    def quick(self) -> bool:
        """Whether a photo's feature takes no more than products of matrices: none of the packs runs the text encoder."""
        return all(task.head.quick for task in self._parted().apart.values())

    def probabilities(self, features: Array, own: Own = NONE) -> dict[str, Array]:
        """Probabilities of each task's classes, which sum to 1 within the task.

        Args:
            features: (B, D) float32, unit length.
            own: the same photos' features by each of `encoders`.

        Returns:
            (B, C) float32 a task, in the order of its labels; C differs between tasks.

        Raises:
            PackError: features are missing in `own`.
        """
        parts = self._parted()
        found: dict[str, Array] = {}
        if stack := parts.stack:
            together = stack.softmax(self._logits(stack, features))  # (B, S)
            found = dict(zip(stack.names, np.split(together, stack.starts[1:], axis=1), strict=True))
        for name, task in parts.apart.items():
            found[name] = task.probabilities(_of(task, name, features, own))
        return parts.ordered(found)

    def classify(self, photo: AnyPhoto, top: int = 3) -> dict[str, list[Prediction]]:
        """The most probable labels of one photo for each task, best first; an encoder sees the photo once.

        Args:
            photo: a path, the bytes of an image file, a PIL image, or an array (H, W, 3) of uint8.
            top: how many a task, at least 1; fewer if the task has fewer labels.

        Raises:
            PhotoError: the photo cannot be read.
        """
        return self.look(photo, top)[0]

    def look(self, photo: AnyPhoto, top: int = 3) -> tuple[dict[str, list[Prediction]], frozenset[str]]:
        """As `classify`, and the tasks none of whose classes the photo seems to show."""
        pixels = pixels_of(self.backbone, photo)
        own = {encoder: encoder.encode_images(pixels)[0] for encoder in self.encoders}
        feature = self.backbone.encode_images(pixels)[0]
        return self.rank(feature, top, own), self.unknown(feature, own)

    def rank(self, feature: Array, top: int = 3, own: Own = NONE) -> dict[str, list[Prediction]]:
        """The most probable labels for each task, best first.

        Args:
            feature: of one photo, (D,) float32, unit length.
            top: as of `classify`.
            own: the same photo's feature by each of `encoders`.

        Raises:
            PackError: a feature is missing in `own`.
        """
        parts = self._parted()
        found: dict[str, list[Prediction]] = {}
        if stack := parts.stack:
            found = stack.rank(stack.softmax(self._logits(stack, feature[None]))[0], top)
        for name, task in parts.apart.items():
            found[name] = task.rank(task.probabilities(_of(task, name, feature, own)[None])[0], top)
        return parts.ordered(found)

    def unknown(self, feature: Array, own: Own = NONE) -> frozenset[str]:
        """The tasks none of whose classes a photo shows, as far as their packs can tell; arguments as of `rank`.

        Raises:
            PackError: a feature is missing in `own`.
        """
        telling = {name: task for name, task in self._tasks.items() if task.tells_unknown}
        return frozenset(name for name, task in telling.items() if not task.knows(_of(task, name, feature, own)[None])[0])

    def _logits(self, stack: _Stack, features: Array) -> Array:
        if len(features) == 1:  # bound by memory: on a busy machine BLAS waits longer for its threads than it computes
            cosines = np.einsum("bd,sd->bs", features, stack.class_features)  # (1, S)
        else:
            cosines = features @ stack.class_features.T  # (B, S)
        return np.asarray(np.float32(self.backbone.manifest.logit_scale) * (cosines + stack.offsets), np.float32)

    def _parted(self) -> _Parts:
        with self._lock:
            if self._parts is None:
                self._parts = _Parts.of(self._tasks)
            return self._parts

    def _check_free(self, name: str) -> None:
        if name in self._tasks:
            raise PackError(f"there is a task {name!r} already: give this one another name, or remove that one")


def _of(task: Classifier, name: str, features: Array, own: Own) -> Array:
    """What a task compares with its classes.

    Raises:
        PackError: it wants features of its own encoder, and there are none.
    """
    if not task.own_encoder:
        return features
    if task.backbone not in own:
        raise PackError(f"task {name!r} has an image encoder of its own: give the features by each of `encoders`, or `classify`")
    return own[task.backbone]
