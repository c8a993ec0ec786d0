"""What scores photos, measured on test photos. Symbols: N photos, D dimensions of a feature, K labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Backbone
from edge_qprompt.bench.openworld import lead, openworld_auc
from edge_qprompt.classify import zero_shot
from edge_qprompt.photos import Dataset, features_of

Array = NDArray[np.float32]
Names = tuple[str, ...]


class Scorer(Protocol):
    """A classifier of K labels."""

    @property
    def backbone(self) -> Backbone:
        """Whose image features it takes."""

    def logits(self, features: Array) -> Array:
        """(N, D) -> (N, K)."""


Among = Callable[[Names], Scorer | None]  # what scores photos among some names; None where it does not know all of these


def measure(among: Among, part: str, targets: Mapping[str, Dataset], skipped: set[str]) -> dict[str, float]:
    """Accuracies on test photos, 0 to 1.

    Args:
        among: what is measured.
        part: of the classes that was learned on: all, base or new. With all, each target has an accuracy under its name;
            otherwise base and new classes of the one target have one each, and one among all labels, and there is OpenworldAUC.
            What knows no new names has a base accuracy alone.
        targets: data sets by name.
        skipped: to which photos are added that cannot be read.
    """
    if part == "all":
        found = {name: (among(data.names), data) for name, data in targets.items()}
        return {name: _share(_hits(scorer, data, skipped)) for name, (scorer, data) in found.items() if scorer}
    (data,) = targets.values()
    base, new = data.select("base"), data.select("new")
    known, others, both = among(base.names), among(new.names), among((*base.names, *new.names))
    assert known is not None
    base_right = _hits(known, base, skipped)
    if others is None or both is None:
        return {"base": _share(base_right)}
    new_right = _hits(others, new, skipped)
    (first, first_labels), (second, second_labels) = (_scores(both, half, skipped) for half in (base, new))
    count = len(base.names)
    return {
        "base": _share(base_right),
        "new": _share(new_right),
        "joint base": _share(first.argmax(axis=1) == first_labels),
        "joint new": _share(second.argmax(axis=1) == second_labels + count),
        "openworld": openworld_auc(lead(first, count), lead(second, count), base_right, new_right),
    }


def new_by_hand(backbone: Backbone, data: Dataset, skipped: set[str]) -> dict[str, float]:
    """Accuracy of the hand-written prompt on test photos of the new classes, how many photos that are, and how many classes."""
    new = data.select("new")
    right = _hits(zero_shot(backbone, new.names), new, skipped)
    return {"accuracy": _share(right), "photos": len(right), "classes": len(new.names)}


def _hits(scorer: Scorer, data: Dataset, skipped: set[str]) -> NDArray[np.bool_]:
    logits, labels = _scores(scorer, data, skipped)
    return np.asarray(logits.argmax(axis=1) == labels)


def _scores(scorer: Scorer, data: Dataset, skipped: set[str]) -> tuple[Array, NDArray[np.int64]]:
    """Logits (N, K) and labels (N,) of the test photos that can be read."""
    assert data.test is not None  # checked by content_of
    features = features_of(scorer.backbone, data.test)
    skipped.update(str(path) for path, _ in features.skipped)
    return scorer.logits(features.values[:, 0]), np.array(data.test.labels)[features.kept]


def _share(right: NDArray[np.bool_]) -> float:
    return float(right.mean())
