"""What a Gaussian discriminant says of each photo when it has not seen that photo: exact, and without learning N times.

The discriminant is that of `methods.gaussian`. Leaving a photo out moves one mean and takes a matrix of rank one from the
covariance, whose inverse follows by the formula of Sherman and Morrison (1950). The ridge stays that of all photos.

numpy only. Symbols: N photos, C classes, D dimensions of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.learn.shots import Labels, Shots

Floats = NDArray[np.float64]
Counts = NDArray[np.intp]


@dataclass(frozen=True)
class Discriminant:
    """A discriminant of photos, with what is needed to leave one of them out.

    Attributes:
        centre: (D,) what is taken from features first.
        means: (C, D) of the classes, less the centre.
        counts: (C,) photos of each class.
        precision: (D, D), the ridge's inverse over D.
        excess: tr(P S), by which the length of a mean of few photos is too large.
        factor: of a photo's square in the ridge, over D.
    """

    centre: Floats
    means: Floats
    counts: Counts
    precision: Floats
    excess: float
    factor: float

    @classmethod
    def fit(cls, shots: Shots) -> Discriminant:
        """Of the centre crops; with one photo a class, for which there is no covariance, of the identity."""
        features, labels = shots.centre.astype(np.float64), shots.labels
        photos, dims = features.shape
        counts = np.bincount(labels, minlength=shots.classes)
        means = _means(features, labels, counts)
        within, free = features - means[labels], photos - shots.classes
        covariance = within.T @ within / free if free else np.eye(dims) / dims
        ridge = (photos - 1) * covariance + (np.trace(covariance) or 1.0) * np.eye(dims)
        precision = dims * np.linalg.inv(ridge)
        centre = means.mean(axis=0)
        factor = (photos - 1) / (max(free, 1) * dims)
        return cls(centre, means - centre, counts, precision, float((precision * covariance).sum()), factor)

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """(B, D) -> (B, C)."""
        weights = self.precision @ self.means.T  # (D, C)
        offsets = (self.excess / self.counts - (self.means.T * weights).sum(axis=0)) / 2
        return np.asarray((features - self.centre) @ weights + offsets)

    def left_out(self, shots: Shots) -> Floats:
        """Scores (N, C) of photos that it is of, or some of them, each left out; but a class's only photo, which cannot be."""
        features, labels = shots.centre.astype(np.float64) - self.centre, shots.labels
        rows, own, rest = np.arange(len(labels)), self.counts[labels], np.maximum(self.counts[labels] - 1, 1)
        off = features - self.means[labels]
        through = off @ self.precision  # (N, D): P d
        share = self.factor * own / rest
        change = share / (1 - share * (off * through).sum(axis=1))  # P of the others is P + change (P d) (P d)'
        here, there = (features * through).sum(axis=1), through @ self.means.T
        scores = self.scores(shots.centre) + change[:, None] * (here[:, None] * there - there**2 / 2)
        means = self.means[labels] - off / rest[:, None]  # (N, D): of its own class, without the photo
        weights, across = means @ self.precision, (through * means).sum(axis=1)
        mine = (features * weights).sum(axis=1) - (means * weights).sum(axis=1) / 2
        scores[rows, labels] = mine + change * (here * across - across**2 / 2) + self.excess / rest / 2
        return np.asarray(scores)


def _means(features: Floats, labels: Labels, counts: Counts) -> Floats:
    """(C, D)."""
    return np.asarray(np.eye(len(counts))[labels].T @ features / np.maximum(counts, 1)[:, None])
