"""How good a classifier is: accuracy, accuracy by class, calibration, harmonic mean.

numpy only, since `evaluate` runs on a device without torch or scikit-learn; the tests hold these
against scikit-learn's. Symbols: N photos, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15  # the usual number, Guo et al. 2017 (arXiv 1706.04599)


@dataclass(frozen=True)
class Scores:
    """Metrics of one evaluation, shares from 0 to 1.

    Attributes:
        accuracy: share of photos with the right label on top.
        per_class: (C,) the same by class; None where a class has no photo.
        ece: expected calibration error of the top label's probability, in 15 bins.
        n: photos.
    """

    accuracy: float
    per_class: tuple[float | None, ...]
    ece: float
    n: int

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], labels: Sequence[int] | NDArray[np.int64]) -> Scores:
        """Scores of (N, C) probabilities against (N,) labels; N >= 1."""
        truth = np.asarray(labels)
        right = probabilities.argmax(axis=1) == truth  # (N,)
        classes = [right[truth == c] for c in range(probabilities.shape[1])]
        per_class = tuple(float(r.mean()) if r.size else None for r in classes)
        ece = calibration_error(probabilities.max(axis=1), right)
        return cls(float(right.mean()), per_class, ece, len(truth))


def calibration_error(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: mean |accuracy - confidence| over equal-width bins, by their share of photos."""
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gaps = np.bincount(bins, right.astype(np.float64) - confidence, ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def harmonic_mean(base: float, new: float) -> float:
    """H of base and new accuracy; 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0
