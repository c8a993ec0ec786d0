"""Base and new photos in one number, and whether the names of new classes say anything to a backbone.

OpenworldAUC is of Hua et al., ICML 2025 (arXiv 2505.05180). Symbols: M base photos x_i, N new photos x_j, C new classes.

    OpenworldAUC = 1 / (M N)  sum_i sum_j  [x_i labelled right] [r(x_i) > r(x_j)] [x_j labelled right]

r says how much a photo looks like one of the base classes; a tie counts as a half, as in any area under a curve. Each photo is
labelled within its own half of the classes. So it is at most base accuracy times new accuracy, which it is where r never errs,
and unlike joint H it does not depend on where between base and new the line is drawn.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ONE_SIDED = 1.645  # standard errors: chance alone is above once in twenty

Floats = NDArray[np.floating]
Hits = NDArray[np.bool_]


def lead(logits: Floats, base: int) -> Floats:
    """r: how far the best base label is above the best new one, of photos among all labels; (B,).

    Of a prompt and of residuals this is the logarithm of the ratio of the largest probabilities. A discriminant has a choice of
    its own between classes with photos and names alone, and gives its labels logits whose lead is that choice. Above 0, and only
    then, the joint answer is a base label.

    Args:
        logits: (B, C) among all labels, the base classes first.
        base: how many these are.
    """
    return np.asarray(logits[:, :base].max(axis=1) - logits[:, base:].max(axis=1))


def openworld_auc(base: Floats, new: Floats, base_right: Hits, new_right: Hits) -> float:
    """OpenworldAUC, 0 to 1, in O((M + N) log N).

    Args:
        base: (M,) r of the base photos.
        new: (N,) r of the new photos.
        base_right: (M,) whether each is labelled right among the base classes.
        new_right: (N,) the same of the new photos among the new classes.
    """
    ours, others = base[base_right], np.sort(new[new_right])
    below, not_above = (np.searchsorted(others, ours, side) for side in ("left", "right"))
    return float((below + not_above).sum()) / (2 * len(base) * len(new))


def above_chance(accuracy: float, photos: int, classes: int) -> bool:
    """Whether an accuracy is above 1 / C by more than ONE_SIDED standard errors of guessing."""
    chance = 1 / classes
    return accuracy > chance + ONE_SIDED * math.sqrt(chance * (1 - chance) / max(photos, 1))
