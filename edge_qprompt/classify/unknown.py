"""How well a classifier tells photos of its classes from others. Symbols: N photos of the classes, M others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.classify.classifier import Classifier

RECALL = 0.95  # of photos of the classes, where false positives are counted: the usual one
COVERAGES = tuple((np.arange(20, 0, -1) / 20).tolist())  # shares of all photos that are answered, from all of them down
FAMILIARITY, PROBABILITY = "familiarity", "largest probability"


@dataclass(frozen=True)
class Unknown:
    """What came of photos of the classes beside others; shares from 0 to 1.

    Attributes:
        by: what they are told apart by: "familiarity", or "largest probability" of packs that do not know what their photos
            look like.
        auroc: how often a photo of the classes has more of it than another: 1 is perfect, 0.5 is chance.
        fpr95: share of the others that have as much of it as 95 % of the photos of the classes.
        lost: of photos of the classes that are labelled right, those that are called unknown all the same.
        found: share of the others that are called unknown. 0, as is `lost`, for a pack that cannot tell.
        accuracy: for each share of all photos in COVERAGES, those with most of it, how many of these are of the classes and
            labelled right.
        n: M.
    """

    by: str
    auroc: float
    fpr95: float
    lost: float
    found: float
    accuracy: tuple[float, ...]
    n: int


def tell_apart(
    classifier: Classifier, mine: NDArray[np.float32], labels: NDArray[np.int64], others: NDArray[np.float32]
) -> Unknown:
    """How a classifier tells photos with labels (N,) from others, by their features (N, D) and (M, D)."""
    probabilities = classifier.probabilities(mine)
    right = probabilities.argmax(axis=1) == labels
    if classifier.tells_unknown:
        by, own, foreign = FAMILIARITY, classifier.familiarity(mine), classifier.familiarity(others)
    else:
        by, own, foreign = PROBABILITY, probabilities.max(axis=1), classifier.probabilities(others).max(axis=1)
    order = np.argsort(-np.concatenate([own, foreign]), kind="stable")
    hits = np.cumsum(np.concatenate([right, np.zeros(len(foreign), bool)])[order])
    answered = [max(1, round(share * len(order))) for share in COVERAGES]
    return Unknown(
        by=by,
        auroc=auroc(own, foreign),
        fpr95=float((foreign >= np.quantile(own, 1 - RECALL)).mean()),
        lost=float((~classifier.knows(mine)[right]).mean()) if right.any() else 0.0,
        found=float((~classifier.knows(others)).mean()),
        accuracy=tuple(float(hits[count - 1] / count) for count in answered),
        n=len(others),
    )


def auroc(high: NDArray[np.floating], low: NDArray[np.floating]) -> float:
    """How often one of `high` is above one of `low`; ties count half."""
    ordered = np.sort(low)
    below, not_above = np.searchsorted(ordered, high, "left"), np.searchsorted(ordered, high, "right")
    return float((below + not_above).mean() / (2 * len(low)))
