"""What a closed form learns from: features of photos, their labels, and what the class names alone say. numpy only.

Symbols: N photos, V views, C classes, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
Places = NDArray[np.intp]

FOLDS = 8  # at most
FEW = 3  # photos a class below which those left out say more about having fewer than about a method


@dataclass(frozen=True, eq=False)
class Shots:
    """Features of photos, their labels, and class features of the hand-written prompt.

    Attributes:
        features: (N, V, D) float32, unit length; the first view is the centre crop.
        labels: (N,) int64, 0 to C - 1, each class at least once.
        by_hand: (C, D) float32, unit length.
        logit_scale: factor on the cosine similarities.
        others: (M, D) float32, unit length: photos of none of the classes; None where there are none to learn from.
    """

    features: Array
    labels: Labels
    by_hand: Array
    logit_scale: float
    others: Array | None = None

    @property
    def centre(self) -> Array:
        """Features of the centre crops, (N, D)."""
        return self.features[:, 0]

    @property
    def classes(self) -> int:
        """C."""
        return len(self.by_hand)

    @property
    def alone(self) -> bool:
        """Whether no class has a second photo, so that none can be left out."""
        return len(self.labels) == self.classes

    @property
    def few(self) -> bool:
        """Whether there are too few photos to choose by those left out."""
        return len(self.labels) < FEW * self.classes

    def of(self, photos: Places) -> Self:
        """Some of the photos, every class among them."""
        return replace(self, features=self.features[photos], labels=self.labels[photos])

    def among(self, classes: Places) -> Self:
        """The photos of some classes, whose labels are counted anew."""
        place = np.full(self.classes, -1)
        place[classes] = np.arange(len(classes))
        mine = place[self.labels] >= 0
        return replace(self, features=self.features[mine], labels=place[self.labels[mine]], by_hand=self.by_hand[classes])

    @cached_property
    def parts(self) -> tuple[tuple[Self, Self], ...]:
        """The folds as photos to learn from, and photos left out."""
        return tuple((self.of(kept), self.of(left)) for kept, left in self.folds())

    def folds(self, most: int = FOLDS) -> Iterator[tuple[Places, Places]]:
        """Photos to learn from, and photos left out; each is left out once, but the only one of a class never.

        The photos of a class are spread over the folds. Where it has enough of them, classes begin at different folds; with
        fewer, a class of which a photo is left out would stand against others that have one more.
        """
        place = np.full(len(self.labels), -1)
        for label in range(self.classes):
            mine = np.flatnonzero(self.labels == label)
            if len(mine) > 1:
                first = label if len(mine) >= most else 0
                place[mine] = (first + np.arange(len(mine))) % min(most, len(mine))
        for fold in np.unique(place[place >= 0]):
            yield np.flatnonzero(place != fold), np.flatnonzero(place == fold)
