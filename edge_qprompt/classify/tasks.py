"""Many packs on one backbone: a photo is encoded once, whatever their number.

Symbols: B photos, C classes, D dimensions of a feature.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify.classifier import Answer, Classifier, Prediction, pixels_of
from edge_qprompt.classify.head import Fixed
from edge_qprompt.classify.stack import Stack
from edge_qprompt.errors import FingerprintError, PackError
from edge_qprompt.pack import Pack
from edge_qprompt.photos import AnyPhoto

T = TypeVar("T")
Array = NDArray[np.float32]
Own = Mapping[Backbone, Array]  # features by packs' own encoders
NONE: Own = MappingProxyType({})


@dataclass(frozen=True)
class _Parts:
    """All tasks.

    Attributes:
        names: in their order.
        stack: those that are computed together, if there are any.
        apart: the others.
    """

    names: tuple[str, ...]
    stack: Stack | None
    apart: Mapping[str, Classifier]

    @classmethod
    def of(cls, tasks: Mapping[str, Classifier], scale: float) -> _Parts:
        """Part them; `scale` is that of the backbone's logits."""
        together = {name: task.head for name, task in tasks.items() if isinstance(task.head, Fixed) and not task.own_encoder}
        apart = {name: task for name, task in tasks.items() if name not in together}
        return cls(tuple(tasks), Stack.of(tasks, together, scale) if together else None, apart)

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
        found = parts.stack.probabilities(features) if parts.stack else {}
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
        return {name: answer.labels for name, answer in self.look(photo, top).items()}

    def look(self, photo: AnyPhoto, top: int = 3, threshold: float | None = None) -> dict[str, Answer]:
        """As `classify`, and whether the photo seems to show none of a task's classes; threshold as of `answer`.

        Raises:
            PhotoError: the photo cannot be read.
            PackError: as of `check_threshold`.
        """
        pixels = pixels_of(self.backbone, photo)
        own = {encoder: encoder.encode_images(pixels)[0] for encoder in self.encoders}
        return self.answer(self.backbone.encode_images(pixels)[0], top, threshold, own)

    def rank(self, feature: Array, top: int = 3, own: Own = NONE) -> dict[str, list[Prediction]]:
        """The most probable labels for each task, best first.

        Args:
            feature: of one photo, (D,) float32, unit length.
            top: as of `classify`.
            own: the same photo's feature by each of `encoders`.

        Raises:
            PackError: a feature is missing in `own`.
        """
        return {name: answer.labels for name, answer in self.answer(feature, top, own=own).items()}

    def answer(self, feature: Array, top: int = 3, threshold: float | None = None, own: Own = NONE) -> dict[str, Answer]:
        """As `rank`, and whether the photo seems to show none of a task's classes, from the same logits.

        Args:
            feature, top, own: as of `rank`.
            threshold: familiarity below which a photo is unknown, for every task that can tell; None is each pack's own.

        Raises:
            PackError: a feature is missing in `own`, or as of `check_threshold`.
        """
        if threshold is not None:
            self.check_threshold(threshold)
        parts = self._parted()
        found = parts.stack.answers(feature, top, threshold) if parts.stack else {}
        for name, task in parts.apart.items():
            found[name] = task.answer(_of(task, name, feature, own), top, threshold)
        return parts.ordered(found)

    def check_threshold(self, threshold: float) -> None:
        """Make sure that a threshold of familiarity decides something.

        Raises:
            PackError: it is no finite number, or none of the tasks can tell that a photo shows none of its classes.
        """
        if not math.isfinite(threshold):
            raise PackError(f"the threshold is {threshold}, it must be a finite number: `inspect` shows a pack's own")
        if not any(task.tells_unknown for task in tuple(self._tasks.values())):
            raise PackError(
                "there is a threshold, but no pack here can tell whether a photo shows none of its classes: "
                "learn one with the method qgda, add no class names, or leave the threshold out"
            )

    def _parted(self) -> _Parts:
        with self._lock:
            if self._parts is None:
                self._parts = _Parts.of(self._tasks, self.backbone.manifest.logit_scale)
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
