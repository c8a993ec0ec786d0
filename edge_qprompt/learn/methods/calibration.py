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
from edge_qprompt.learn.shots import Shots

FOLDS = 4
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
TOWARDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # over a learned prompt: from its class features to the photos' means, and not beyond
BIASES = tuple(np.linspace(-0.2, 0.6, 81).tolist())  # in cosines

Array = NDArray[np.float32]
Labels = NDArray[np.int64]


def quantized(features: Array, labels: Labels, text: Array, clusters: ClusterSettings) -> Quantized:
    """Residuals (C, D) of photos (N, D) with labels (N,) over text features (C, D), quantized."""
    residual = class_means(features, labels, len(text)) - text
    return Clustering.fit(residual, clusters).quantize(residual)


def choose(shots: Shots, clusters: ClusterSettings, learned: Array | None = None) -> tuple[float, float]:
    """Factor on the residuals, and what is taken from the cosines of classes with one where others have none.

    Both by cross-validation over photos; for the second, half of the classes play those without photos, then the other half.

    A learned prompt has seen the photos that are left out, and would seem to need no residual; the hand-written one is worse than
    it, and would ask for too much. So over a learned prompt the factor is the one with the most hits over both together.

    Args:
        shots: photos, of which means are taken of all views, and the centre crops are classified.
        clusters: of the residuals.
        learned: class features (C, D) of the learned prompt, if the residuals are to lie over one.
    """
    if shots.alone:
        return 1.0, 0.0  # one photo a class leaves none to choose with
    features, labels = shots.features, shots.labels
    texts, alphas = ((shots.by_hand,), ALPHAS) if learned is None else ((shots.by_hand, learned), TOWARDS)
    hits, losses = np.zeros(len(alphas)), np.zeros(len(alphas))
    joint = []
    for kept, left in _folds(labels):
        flat, of_views = features[kept].reshape(-1, features.shape[2]), np.repeat(labels[kept], features.shape[1])
        photos, wanted = features[left, 0], labels[left]
        for text in texts:
            residual = quantized(flat, of_views, text, clusters).values()
            for i, alpha in enumerate(alphas):
                cosines = photos @ normalised(text + alpha * residual).T
                hits[i] += (cosines.argmax(axis=1) == wanted).sum()
                losses[i] += _cross_entropy(shots.logit_scale * cosines, wanted)
            if text is shots.by_hand:
                joint.append((photos, wanted, residual))
    best = max(range(len(alphas)), key=lambda i: (hits[i], -losses[i]))
    return alphas[best], _bias(joint, shots.by_hand, alphas[best])


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
