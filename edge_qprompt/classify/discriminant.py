"""A Gaussian discriminant as a pack holds it: which of the classes with photos, whether one of them, and names beside them.

The row of a class is a linear function of the photo's feature. Such a function says which of *these* classes a photo shows, not
whether it shows one of them: far from all photos it is as sure as near them. What says that is the score on top, divided by the
distance from the mean of all photos, less that distance: `familiarity`. It needs one vector a pack, not one a class.
Where some labels have no photos, it decides first between those with and those without; the names then say which of the others.

How the rows are learned stands in `learn.methods.gaussian`. numpy only. Symbols: B photos, C labels, K classes with photos,
D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.errors import PackError
from edge_qprompt.pack import DECISION, Decision, Pack, Role

NEAREST = 1e-3  # of the mean distance: what is nearer counts as this far, which no photo is
FAR = 2.0  # weight of the distance in the familiarity of a photo of anything: docs/adr/0019-discriminant.md
NEAR = 1.0  # the same where it shows one of some named classes, of which many look alike

Array = NDArray[np.float32]


def familiarity(scores: NDArray[np.floating], distances: NDArray[np.floating], weight: float = FAR) -> Array:
    """How much photos look like those of a task, whatever their class; (B,).

    Args:
        scores: (B, K), of the classes, in standard deviations.
        distances: (B,) from the mean feature, over their mean.
        weight: of the distance.
    """
    return _familiarity(scores.max(axis=1), np.int64(scores.shape[1]), distances, weight)


def _familiarity(
    highest: NDArray[np.floating], classes: NDArray[np.int64] | np.int64, distances: NDArray[np.floating], weight: float
) -> Array:
    """The same by the score on top, the number of classes and the distance, of any shapes that go together."""
    away = np.maximum(distances, NEAREST)
    lead = highest / np.sqrt(np.maximum(classes - 1, 1))  # over what a score that leaves no doubt has
    return np.asarray(lead / away - weight * away, np.float32)


@dataclass(frozen=True)
class Familiar:
    """What a pack's photos look like, whatever their class.

    Attributes:
        mean: (D,) float32, their mean feature.
        decision: the numbers that go with it.
    """

    mean: Array
    decision: Decision

    def familiarity(self, features: Array, logits: Array, weight: float = FAR) -> Array:
        """How familiar photos (B, D) look, (B,), by the logits (B, K) of the classes; see `familiarity`."""
        distances = np.linalg.norm(features - self.mean, axis=1) / self.decision.distance
        return familiarity(logits / np.float32(self.decision.spread), distances, weight)


@dataclass(frozen=True)
class Familiars:
    """What the photos of many tasks look like, M of N tasks; the others cannot tell.

    Attributes:
        places: (M,) int64, which of the N tasks.
        means: (M, D) float32.
        squares: (M,) float32, the means' squared lengths.
        counts: (M,) int64, classes of each task.
        spreads, distances: (M,) float32, of their decisions.
        thresholds: (M,) float64, familiarity below which a photo shows none of a task's classes.
    """

    places: NDArray[np.int64]
    means: Array
    squares: Array
    counts: NDArray[np.int64]
    spreads: Array
    distances: Array
    thresholds: NDArray[np.float64]

    @classmethod
    def of(cls, tasks: Sequence[Familiar | None], counts: NDArray[np.int64]) -> Familiars | None:
        """Of N tasks with so many classes (N,) each; None where not one can tell."""
        telling = [(place, task) for place, task in enumerate(tasks) if task is not None]
        if not telling:
            return None
        places, means = np.array([place for place, _ in telling]), np.stack([task.mean for _, task in telling])
        decisions = [task.decision for _, task in telling]
        spreads, distances = np.array([(each.spread, each.distance) for each in decisions], np.float32).T
        thresholds = np.array([each.unknown for each in decisions])
        return cls(places, means, np.einsum("md,md->m", means, means), counts[places], spreads, distances, thresholds)

    def familiarity(self, feature: Array, highest: Array) -> Array:
        """How familiar a photo (D,) looks to each task, (M,), by its largest logit under each of the N tasks (N,)."""
        squares = feature @ feature + self.squares - 2 * np.einsum("md,d->m", self.means, feature)
        distances = np.sqrt(np.maximum(squares, 0)) / self.distances
        return _familiarity(highest[self.places] / self.spreads, self.counts, distances, FAR)


@dataclass(frozen=True)
class Discriminant:
    """What a pack says of its classes with photos.

    Attributes:
        weights: (K, D) float32.
        offsets: (K,) float32.
        familiar: whose mean is (D,); a row's cosine-like value is weights @ (feature - mean) + offset.
    """

    weights: Array
    offsets: Array
    familiar: Familiar

    @classmethod
    def of(cls, pack: Pack, dims: int) -> Discriminant | None:
        """A pack's, or None where it has none.

        Raises:
            PackError: parts are missing, or do not fit each other, the pack's names or the backbone's D dimensions.
        """
        if (rows := pack.tensor(Role.DISCRIMINANT)) is None:
            return None
        scales, mean, decision = pack.tensor(Role.DISCRIMINANT_ROWS), pack.tensor(Role.FEATURE_MEAN), pack.get(DECISION)
        if scales is None or mean is None or decision is None:
            raise PackError("the pack has a discriminant without its scales, its mean or its decision: learn it again")
        classes = len(pack.class_names or ())
        if (rows.shape, scales.shape, mean.shape) != ((classes, dims), (2, classes), (dims,)):
            found = f"{rows.shape}, {scales.shape} and {mean.shape}"
            raise PackError(f"the pack has a discriminant of {found} for {classes} names and {dims} dimensions: learn it again")
        scale, offset = scales.values()
        return cls(scale[:, None] * rows.values(), offset, Familiar(mean.values(), decision))

    def needs_text(self, names: Sequence[str], mine: Sequence[str]) -> bool:
        """Whether text features of the labels count."""
        return self.familiar.decision.text != 0 or not set(names) <= set(mine)

    def rows(self, own: Sequence[int], text: Array | None) -> tuple[Array, Array]:
        """Some of its classes as rows (K, D) and offsets (K,) of a head: `features @ rows.T + offsets`.

        Args:
            own: which of its classes.
            text: (K, D) their text features, where these count.
        """
        weights = self.weights[list(own)]
        offsets = self.offsets[list(own)] - weights @ self.familiar.mean
        if text is not None and self.familiar.decision.text:
            weights = weights + np.float32(self.familiar.decision.text) * text
        return weights, offsets


@dataclass(frozen=True)
class Split:
    """Labels with photos beside labels that are names alone: first which of the two, then who among them.

    Attributes:
        familiar: what photos of the labels that have some look like.
        scale: of the backbone's logits.
        rows, offsets: (K, D), (K,) of those labels, as of `Discriminant.rows`.
        text: (C, D) text features of all labels.
        seen: (C,) whether a label has photos; its rows are in the order of these.
    """

    familiar: Familiar
    scale: float
    rows: Array
    offsets: Array
    text: Array
    seen: NDArray[np.bool_]
    quick = True

    def cosines(self, features: Array) -> Array:
        """(B, D) -> (B, C), in units of the logit scale: the best label with photos stands above the best one without by as much
        as the first decision says."""
        decision = self.familiar.decision
        among, text = features @ self.rows.T + self.offsets, features @ self.text.T
        best, best_new = among.max(axis=1, keepdims=True), text[:, ~self.seen].max(axis=1, keepdims=True)
        names = text[:, self.seen].max(axis=1) - best_new[:, 0]
        familiar = self.familiar.familiarity(features, self.scale * among, NEAR)
        lead = familiar + decision.seen_text * names - decision.seen  # (B,)
        cosines = np.empty_like(text)
        cosines[:, self.seen] = among - best + (decision.spread / self.scale * lead)[:, None]
        cosines[:, ~self.seen] = text[:, ~self.seen] - best_new
        return np.asarray(cosines, np.float32)

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        return self.rows.nbytes + self.text.nbytes + self.familiar.mean.nbytes
