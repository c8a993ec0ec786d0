"""Logistic regression in floating point on the features that methods learn from: no method, and without a pack.

It says what a linear head of any size reaches with these photos. Names without photos it does not know.
Symbols: N photos, V views, C classes, D dimensions of a feature.
"""

from __future__ import annotations

import importlib
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify import zero_shot
from edge_qprompt.errors import DataError
from edge_qprompt.learn import AdaptSettings, Shots
from edge_qprompt.photos import Dataset, Views, features_of

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

REGRESSION = "logistic-regression"  # as it is asked for
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)  # C
FOLDS = 3
ALONE = 100.0  # C where no photo can be left out

Array = NDArray[np.float32]


def regression(shots: Shots) -> LogisticRegression:
    """Logistic regression, its C the best on photos left out in turn."""
    hits = dict.fromkeys(STRENGTHS, 0)
    for kept, left in shots.folds(FOLDS):
        for strength in STRENGTHS:
            model = _fitted(shots.of(kept), strength, 200)
            hits[strength] += int((model.predict(shots.centre[left]) == shots.labels[left]).sum())
    best = max(STRENGTHS, key=lambda each: hits[each]) if any(hits.values()) else ALONE
    return _fitted(shots, best, 500)


def _fitted(shots: Shots, strength: float, rounds: int) -> LogisticRegression:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    views = shots.features.shape[1]
    every, labels = shots.features.reshape(-1, shots.features.shape[2]), np.repeat(shots.labels, views)  # (N V, D), (N V,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last rounds change no label
        return LogisticRegression(C=strength, max_iter=rounds).fit(every, labels)


@dataclass(frozen=True)
class Regressed:
    """A logistic regression as a classifier.

    Attributes:
        backbone: whose image features it takes.
        names: (C,).
        model: fitted.
        train: accuracy on the photos that it was fitted to.
        seconds: from features to this.
    """

    backbone: Backbone
    names: tuple[str, ...]
    model: LogisticRegression
    train: float
    seconds: float

    @classmethod
    def fit(cls, backbone: Backbone, data: Dataset, settings: AdaptSettings, skipped: set[str]) -> Regressed:
        """To the photos that a method would learn from.

        Args:
            backbone: frozen.
            data: whose training photos.
            settings: shots, views and seed.
            skipped: to which photos are added that cannot be read.

        Raises:
            DataError: a class without a readable photo.
        """
        photos, _ = data.few_shot(settings.shots, settings.loop.seed)
        features = features_of(backbone, photos, views=Views(settings.views, settings.loop.seed))
        skipped.update(str(path) for path, _ in features.skipped)
        labels = np.array(photos.labels, np.int64)[features.kept]
        if empty := [name for label, name in enumerate(data.names) if label not in labels]:
            raise DataError(f"no readable training photo of {', '.join(empty[:5])}: add some, or remove the class")
        text = zero_shot(backbone, data.names).class_features
        shots = Shots(features.values, labels, text, backbone.manifest.logit_scale)
        importlib.import_module("sklearn.linear_model")  # loading it is no part of the seconds
        began = time.perf_counter()
        with threadpool_limits(1):  # as closed forms have
            model = regression(shots)
        seconds = time.perf_counter() - began
        return cls(backbone, data.names, model, float(model.score(shots.centre, labels)), seconds)

    @property
    def nbytes(self) -> int:
        """Of its weights, in 32 bits each, and an offset a class."""
        return 4 * len(self.names) * (self.backbone.manifest.embed_dim + 1)

    def among(self, names: tuple[str, ...]) -> Regressed | None:
        """Itself among its own names; it knows no others."""
        return self if names == self.names else None

    def logits(self, features: Array) -> Array:
        """Logarithms of the probabilities, (N, D) -> (N, C)."""
        return np.asarray(self.model.predict_log_proba(features), np.float32)
