"""How photos of none of the classes are told apart: against scikit-learn's curves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from edge_qprompt.classify import auroc
from edge_qprompt.classify.unknown import COVERAGES, tell_apart


class Sure:
    """Probabilities and familiarity are what the features say."""

    tells_unknown = True

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        return features[:, :3]

    def familiarity(self, features: np.ndarray) -> np.ndarray:
        return features[:, 3]

    def knows(self, features: np.ndarray) -> np.ndarray:
        return features[:, 3] >= 0.45


@pytest.mark.parametrize("seed", range(5))
def test_area_and_false_positives_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    high, low = rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 200).round(1)  # rounded: there are ties
    truth, scores = np.repeat([1, 0], [300, 200]), np.concatenate([high, low])
    assert auroc(high, low) == pytest.approx(roc_auc_score(truth, scores))
    mine, others = np.zeros((300, 4), np.float32), np.zeros((200, 4), np.float32)
    mine[:, 3], others[:, 3] = high, low
    labels = rng.integers(0, 3, 300)
    mine[np.arange(300), (labels + (rng.random(300) < 0.2)) % 3] = 1
    found = tell_apart(Sure(), mine, labels, others)  # type: ignore[arg-type]
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(false[np.searchsorted(true, 0.95)], abs=0.03)
    right = mine[:, :3].argmax(axis=1) == labels
    assert found.lost == pytest.approx((high[right] < 0.45).mean())
    assert found.found == pytest.approx((low < 0.45).mean())
    assert (found.n, len(found.accuracy)) == (200, len(COVERAGES))
    assert found.accuracy[0] == pytest.approx(right.sum() / 500)
    order = np.argsort(-scores.astype(np.float32), kind="stable")[:250]
    assert found.accuracy[10] == pytest.approx(np.concatenate([right, np.zeros(200)])[order].mean())
