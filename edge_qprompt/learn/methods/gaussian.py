"""The Gaussian discriminant of features, in closed form, and its rows in b bits a weight.

Source: Wang et al., "A hard-to-beat baseline for training-free CLIP-based adaptation" (ICLR 2024): classes as Gaussians with one
covariance, its inverse estimated by ridge (Kubokawa and Srivastava, 2008). With mu_c the mean feature of class c, not of unit
length, and S the covariance of the features about these means, over N - C:

    P = D inverse((N - 1) S + tr(S) I),   w_c = P mu_c,   b_c = -(mu_c' P mu_c - tr(P S) / n_c) / 2

The last term is ours: the mean of n_c photos is longer than the class's true mean, the more so the fewer they are, so that a
class with few photos would lose against those with many.

Rows are rounded with error feedback, as OPTQ (Frantar et al., arXiv 2210.17323) rounds the weights of a network: dimension after
dimension, what rounding one changes in the outputs of the photos is made up for by those that are still to come.

numpy only. Symbols: N photos, V views, C classes, D dimensions of a feature, b bits, K = 2^b centres.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.codebook import Floats, Quantized, kmeans_1d, nearest
from edge_qprompt.learn.shots import Shots
from edge_qprompt.pack import PackTensor, Role

DAMPING = 0.2  # of the mean variance, on the diagonal of what the error feedback sees
MEAN_BITS = 2  # of the mean feature


@dataclass(frozen=True)
class Gaussian:
    """The discriminant of some photos, in floating point.

    Attributes:
        weights: (C, D), their mean over the classes zero.
        offsets: (C,), likewise; a score is weights @ (feature - mean) + offset.
        means: (C, D) mean features.
        mean: the mean feature in MEAN_BITS, as packs have it.
        spread: standard deviation of the photos' scores over the classes.
        moment: (D, D) second moment of the features about `mean`, damped.
    """

    weights: Floats
    offsets: Floats
    means: Floats
    mean: PackTensor
    spread: float
    moment: Floats

    @classmethod
    def of(cls, shots: Shots) -> Gaussian:
        """As `fit`, which is done once for photos that are asked for again, in other bits."""
        if shots not in _FITTED:
            _FITTED[shots] = cls.fit(shots)
        return _FITTED[shots]

    @classmethod
    def fit(cls, shots: Shots) -> Gaussian:
        """The discriminant of photos; with one photo a class, for which there is no covariance, of the identity."""
        count, dims = shots.classes, shots.features.shape[2]
        views = shots.features.reshape(-1, dims).astype(np.float64)  # (N V, D)
        labels = np.repeat(shots.labels, shots.features.shape[1])
        means = np.zeros((count, dims))
        np.add.at(means, labels, views)
        means /= np.bincount(labels, minlength=count)[:, None]
        counts = np.bincount(shots.labels, minlength=count)
        weights, offsets = _rows(means, _covariance(views - means[labels], shots), counts)
        mean = _in_bits(means.mean(axis=0))
        about = mean.values().astype(np.float64)
        offsets = offsets + weights @ about
        shifted = views - about
        moment = shifted.T @ shifted / len(shifted)
        moment += DAMPING * max(np.trace(moment) / dims, np.finfo(float).tiny) * np.eye(dims)
        return cls(weights, offsets, means, mean, spread_of(shifted @ weights.T + offsets), moment)

    def rows(self, bits: int) -> Rows:
        """The rows in b bits a weight."""
        scales = self.weights.std(axis=1, keepdims=True)
        scales[scales == 0] = 1.0  # one class, or two that are the same
        unit = self.weights / scales
        centres = kmeans_1d(unit, bits)
        indexes = _rounded(unit, centres, self.moment)
        values = centres[indexes]  # (C, D)
        seen, own = values @ self.moment, self.weights @ self.moment
        scale = (own * values).sum(axis=1) / np.maximum((seen * values).sum(axis=1), np.finfo(float).tiny)  # least squares
        centred = self.means - self.mean.values()
        wrong = centred @ (self.weights - scale[:, None] * values).T  # (C, C): of a class's mean, what each row misses
        offsets = self.offsets + (wrong.mean(axis=0) + np.diag(wrong)) / 2  # right for a photo that is the row's own or any
        return Rows(Quantized(centres, indexes, bits), scale, offsets, self.mean)

    def scores(self, features: NDArray[np.float32]) -> Floats:
        """(B, D) -> (B, C)."""
        return np.asarray((features - self.mean.values()) @ self.weights.T + self.offsets, np.float64)


@dataclass(frozen=True)
class Rows:
    """A discriminant in b bits a weight.

    Attributes:
        weights: (C, D), in units of each row's scale.
        scales, offsets: (C,).
        mean: as of `Gaussian`.
    """

    weights: Quantized
    scales: Floats
    offsets: Floats
    mean: PackTensor

    def scores(self, features: NDArray[np.float32]) -> Floats:
        """(B, D) -> (B, C)."""
        values = self.scales[:, None] * self.weights.values()
        return np.asarray((features - self.mean.values()) @ values.T + self.offsets)

    def tensors(self, factor: float) -> tuple[PackTensor, ...]:
        """As a pack has it, with scores times `factor`."""
        scales = np.stack([factor * self.scales, factor * self.offsets]).astype(np.float32)
        rows = PackTensor.quantized(Role.DISCRIMINANT, self.weights)
        return rows, PackTensor.raw(Role.DISCRIMINANT_ROWS, scales), self.mean


_FITTED: WeakKeyDictionary[Shots, Gaussian] = WeakKeyDictionary()  # as long as somebody has the photos


def spread_of(scores: NDArray[np.floating]) -> float:
    """Standard deviation of scores (B, C) over the classes; 1 where all are the same."""
    return float((scores - scores.mean(axis=1, keepdims=True)).std()) or 1.0


def _covariance(within: Floats, shots: Shots) -> Floats:
    """(D, D), of features (N V, D) about their class means; the identity over D where each class has one photo."""
    dims, free = within.shape[1], len(shots.labels) - shots.classes
    if free == 0:
        return np.asarray(np.eye(dims) / dims, np.float64)
    return np.asarray(within.T @ within / (free * shots.features.shape[1]), np.float64)


def _rows(means: Floats, covariance: Floats, counts: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Weights (C, D) and offsets (C,), both less their mean over the classes; of means (C, D) of `counts` (C,) photos."""
    dims, variance = means.shape[1], np.trace(covariance) or 1.0
    ridge = (counts.sum() - 1) * covariance + variance * np.eye(dims)
    precision = dims * np.linalg.inv(ridge)
    weights, excess = means @ precision, (precision * covariance).sum()  # tr(P S), since both are symmetric
    offsets = (excess / counts - (weights * means).sum(axis=1)) / 2
    return weights - weights.mean(axis=0), offsets - offsets.mean()


def _rounded(unit: Floats, centres: Floats, moment: Floats) -> NDArray[np.uint8]:
    """Indexes (C, D) of rows rounded to centres (K,) with error feedback, the dimensions that vary most first."""
    order = np.argsort(-np.diag(moment), kind="stable")
    # row i of this is how an error in dimension i is best made up for by those after it
    feedback = np.linalg.cholesky(np.linalg.inv(moment[np.ix_(order, order)])).T
    left, indexes = unit[:, order], np.empty(unit.shape, np.uint8)
    for i, dimension in enumerate(order):
        indexes[:, dimension] = nearest(left[:, i], centres)
        error = (left[:, i] - centres[indexes[:, dimension]]) / feedback[i, i]
        left[:, i + 1 :] -= error[:, None] * feedback[i, i + 1 :]
    return indexes


def _in_bits(mean: Floats) -> PackTensor:
    """The mean feature as a tensor of MEAN_BITS."""
    centres = kmeans_1d(mean, MEAN_BITS)
    return PackTensor.quantized(Role.FEATURE_MEAN, Quantized(centres, nearest(mean, centres), MEAN_BITS))
