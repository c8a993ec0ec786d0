"""Calibration of class residuals: what they are multiplied with, and how much classes with one are held back.

Both are chosen on photos left out of the means. numpy only. Symbols: N photos, V views, C classes, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.arrays import normalised
from edge_qprompt.classify import class_means
from edge_qprompt.codebook import Clustering, ClusterSettings, Quantized

FOLDS = 4
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
BIASES = tuple(np.linspace(-0.2, 0.6, 81).tolist())  # in cosines

Array = NDArray[np.float32]
Labels = NDArray[np.int64]


def quantized(features: Array, labels: Labels, text: Array, clusters: ClusterSettings) -> Quantized:
    """Residuals (C, D) of photos (N, D) with labels (N,) over text features (C, D), quantized."""
    residual = class_means(features, labels, len(text)) - text
    return Clustering.fit(residual, clusters).quantize(residual)


def choose(features: Array, labels: Labels, text: Array, clusters: ClusterSettings, scale: float) -> tuple[float, float]:
    """Factor on the residuals, and what is taken from the cosines of classes with one where others have none.

    Both by cross-validation over photos; for the second, half of the classes play those without photos, then the other half.

    Args:
        features: (N, V, D), unit length; means are taken of all views, the centre crops are classified.
        labels: (N,).
        text: (C, D).
        clusters: of the residuals.
        scale: of the logits.
    """
    if np.bincount(labels).max() < 2:
        return 1.0, 0.0  # one photo a class leaves none to choose with
    hits, losses = np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS))
    joint = []
    for kept, left in _folds(labels):
        flat = features[kept].reshape(-1, text.shape[1])
        residual = quantized(flat, np.repeat(labels[kept], features.shape[1]), text, clusters).values()
        photos, wanted = features[left, 0], labels[left]
        for i, alpha in enumerate(ALPHAS):
            cosines = photos @ normalised(text + alpha * residual).T
            hits[i] += (cosines.argmax(axis=1) == wanted).sum()
            losses[i] += _cross_entropy(scale * cosines, wanted)
        joint.append((photos, wanted, residual))
    best = max(range(len(ALPHAS)), key=lambda i: (hits[i], -losses[i]))
    return ALPHAS[best], _bias(joint, text, ALPHAS[best])


def _bias(joint: list[tuple[Array, Labels, Array]], text: Array, alpha: float) -> float:
    """The bias with the best harmonic mean of the accuracies of classes with and without a residual, all of them labels."""
    hits = np.zeros((2, len(BIASES)))
    for photos, wanted, residual in joint:
        for half in (0, 1):
            seen = np.arange(len(text)) % 2 == half
            cosines = photos @ normalised(text + alpha * residual * seen[:, None]).T  # (N, C)
            for i, bias in enumerate(BIASES):
                right = (cosines - bias * seen).argmax(axis=1) == wanted
                hits[:, i] += right[seen[wanted]].sum(), right[~seen[wanted]].sum()
    harmonic = hits[0] * hits[1] / np.maximum(hits.sum(axis=0), 1)
    best = np.flatnonzero(harmonic == harmonic.max())
    return float(BIASES[best[len(best) // 2]])


def _folds(labels: Labels) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Photos to take the means of, and photos left out; each is left out once, but the only one of a class never."""
    place = np.full(len(labels), -1)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        if len(mine) > 1:
            place[mine] = np.arange(len(mine)) % FOLDS
    for fold in range(min(FOLDS, int(place.max()) + 1)):
        yield np.flatnonzero(place != fold), np.flatnonzero(place == fold)


def _cross_entropy(logits: Array, labels: Labels) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).sum())
