"""Tasks with fixed class features as one matrix: one product labels a photo for all of them.

Symbols: B photos, D dimensions of a feature, N tasks, S classes of all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.classify.classifier import DIGITS, Answer, Classifier, Prediction
from edge_qprompt.classify.discriminant import Familiars
from edge_qprompt.classify.head import Fixed

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Stack:
    """N tasks, each task's classes in a row of their own.

    Attributes:
        names: of the tasks.
        labels: (S,) class names.
        class_features: (S, D) float32, of unit length but for a discriminant's.
        offsets: (S,) float32, added to the cosines.
        starts: (N,) int64, the first class of each task.
        counts: (N,) int64, the classes of each task, at least 1.
        scale: of the backbone's logits.
        familiars: what photos look like of those tasks that can tell; None where not one can.
    """

    names: tuple[str, ...]
    labels: NDArray[np.object_]
    class_features: Array
    offsets: Array
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    scale: float
    familiars: Familiars | None

    @classmethod
    def of(cls, tasks: Mapping[str, Classifier], heads: Mapping[str, Fixed], scale: float) -> Stack:
        """Stack at least one of some tasks.

        Args:
            tasks: by name.
            heads: of those that are stacked.
            scale: of the backbone's logits.
        """
        chosen = [tasks[name] for name in heads]
        counts = np.array([len(task.labels) for task in chosen], np.int64)
        labels = np.array([label for task in chosen for label in task.labels], object)
        features = np.concatenate([head.class_features for head in heads.values()])
        offsets = np.concatenate([head.offsets for head in heads.values()])
        familiars = Familiars.of([task.familiar for task in chosen], counts)
        return cls(tuple(heads), labels, features, offsets, np.cumsum(counts) - counts, counts, scale, familiars)

    def probabilities(self, features: Array) -> dict[str, Array]:
        """Of each task's classes, (B, C) each, for features (B, D)."""
        logits = self._logits(features)
        together = self._softmax(logits, self._highest(logits))  # (B, S)
        return dict(zip(self.names, np.split(together, self.starts[1:], axis=1), strict=True))

    def answers(self, feature: Array, top: int, threshold: float | None) -> dict[str, Answer]:
        """Of each task about one photo (D,); arguments as of `Classifier.answer`, the threshold for every task."""
        logits = self._logits(feature[None])
        highest = self._highest(logits)  # (1, N)
        labels = self._best(self._softmax(logits, highest)[0], top)
        facts = zip(labels, *self._told(feature, highest[0], threshold), strict=True)
        return dict(zip(self.names, map(tuple.__new__, repeat(Answer), facts), strict=True))

    def _told(self, feature: Array, highest: Array, threshold: float | None) -> tuple[list[bool | None], list[float | None]]:
        """Whether a photo is unknown, and its familiarity, for each task; None where a task cannot tell."""
        unknown, familiarity = np.full((2, len(self.names)), None, object)
        if (them := self.familiars) is not None:
            found = np.round(them.familiarity(feature, highest).astype(np.float64), DIGITS)  # (M,), any threshold compares
            unknown[them.places] = found < (them.thresholds if threshold is None else threshold)
            familiarity[them.places] = found
        return unknown.tolist(), familiarity.tolist()

    def _logits(self, features: Array) -> Array:
        """(B, D) -> (B, S)."""
        if len(features) == 1:  # bound by memory: on a busy machine BLAS waits longer for its threads than it computes
            cosines = np.einsum("bd,sd->bs", features, self.class_features)  # (1, S)
        else:
            cosines = features @ self.class_features.T  # (B, S)
        return np.asarray(np.float32(self.scale) * (cosines + self.offsets), np.float32)

    def _highest(self, logits: Array) -> Array:
        """The largest of each task, (B, S) -> (B, N)."""
        return np.asarray(np.maximum.reduceat(logits, self.starts, axis=1))

    def _softmax(self, logits: Array, highest: Array) -> Array:
        """Softmax of (B, S) within each task, (B, S) float32."""
        shifted = np.exp(logits - np.repeat(highest, self.counts, axis=1))
        sums = np.add.reduceat(shifted, self.starts, axis=1)  # (B, N)
        return np.asarray(shifted / np.repeat(sums, self.counts, axis=1), np.float32)

    def _best(self, probabilities: Array, top: int) -> list[list[Prediction]]:
        """The `top` labels of each task for one row of probabilities (S,), best first."""
        task = np.repeat(np.arange(len(self.names)), self.counts)  # (S,)
        # by task, then best first: bits of floats from 0 on are ordered as they are; ties stay in the order of the labels
        order = np.argsort((task << 32) - probabilities.view(np.int32), kind="stable")
        best = order[np.arange(len(order)) - self.starts[task] < top]
        pairs = zip(self.labels[best].tolist(), probabilities[best].tolist(), strict=True)
        found = list(map(tuple.__new__, repeat(Prediction), pairs))  # as Prediction._make, without a Python frame each
        ends = np.cumsum(np.minimum(self.counts, top)).tolist()
        return [found[start:end] for start, end in zip([0, *ends], ends, strict=False)]
