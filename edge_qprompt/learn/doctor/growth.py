"""What more photos would bring: accuracy over photos a class, and what each class's own photos have brought so far.

Photos are left out in turn, the others learned from: all of them, half of each class, a quarter, ... For each class by itself,
half of its photos are taken away and all photos left out are labelled again. The discriminant's covariance belongs to all
classes, so that only the class's mean moves. What is still to come is foreseen from the last doubling: with accuracy a - b / n
of n photos, the next doubling brings half of what the last one brought.

numpy only. Symbols: N photos, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.learn.doctor.left_out import Discriminant
from edge_qprompt.learn.shots import Places, Shots

Floats = NDArray[np.float64]

FOLDS = 8
DRAWS = 5  # at most
PHOTOS = 20_000  # learned from in all, about: more photos have fewer draws
MORE = 10  # photos of a class that are thought of
CHANCE = 0.05  # that a class is named which is like the others


@dataclass(frozen=True)
class Point:
    """Of the curve.

    Attributes:
        photos: of a class that were learned from, in the mean over the classes.
        accuracy: of photos left out, 0 to 1.
        error: its standard error.
    """

    photos: float
    accuracy: float
    error: float


@dataclass(frozen=True)
class Gain:
    """Of one class.

    Attributes:
        name: of the class.
        photos: that it has.
        gain: accuracy over all classes that half of its photos have brought.
        error: standard error of that.
        ten_more: accuracy that ten more photos of it are foreseen to bring.
        stands_out: whether that is more than of the other classes, beyond chance.
    """

    name: str
    photos: int
    gain: float
    error: float
    ten_more: float
    stands_out: bool


@dataclass(frozen=True)
class Growth:
    """What more photos would bring.

    Attributes:
        curve: from fewest photos to most.
        doubled: accuracy foreseen with twice the photos; None where the curve has one point.
        gains: of the classes, those first of which ten more photos are foreseen to bring most.
    """

    curve: tuple[Point, ...]
    doubled: float | None
    gains: tuple[Gain, ...]

    @classmethod
    def of(cls, shots: Shots, names: tuple[str, ...], seed: int = 0) -> Growth:
        """From photos of which some class has two or more.

        Args:
            shots: the photos.
            names: (C,) of the classes.
            seed: of the draws.
        """
        rng, lost = np.random.default_rng(seed), np.zeros((len(shots.labels), shots.classes))
        draws = int(np.clip(PHOTOS // len(shots.labels), 1, DRAWS))
        counts = np.bincount(shots.labels)
        halvings = int(np.ceil(np.log2(counts.max()))) + 1
        hits, sizes, tried = np.zeros((halvings, len(shots.labels))), np.zeros(halvings), 0
        for _ in range(draws):
            order = rng.permutation(len(shots.labels))
            mixed = shots.of(order)
            for kept, left in mixed.folds(FOLDS):
                fold = _Fold.of(mixed.of(kept), mixed.of(left), halvings)
                hits[:, order[left]] += fold.hits / draws
                lost[order[left]] += fold.lost / draws
                sizes, tried = sizes + fold.sizes, tried + 1
        judged = np.flatnonzero(counts[shots.labels] > 1)
        points = [_point(size / tried, right[judged]) for size, right in zip(sizes, hits, strict=True)]
        curve = tuple(sorted({each.photos: each for each in points}.values(), key=lambda each: each.photos))
        doubled = None
        if len(curve) > 1:
            doubled = min(1.0, curve[-1].accuracy + max(0.0, curve[-1].accuracy - curve[-2].accuracy) / 2)
        return cls(curve, doubled, _gains(lost[judged], counts, names))


@dataclass(frozen=True, eq=False)
class _Fold:
    """M photos that were left out: which are labelled right (halvings, M), of so many photos a class (halvings,) learned from;
    and what of that is lost, 1 to -1, when one class alone is halved (M, C)."""

    hits: Floats
    sizes: Floats
    lost: Floats

    @classmethod
    def of(cls, kept: Shots, left: Shots, halvings: int) -> _Fold:
        parts = [kept.of(_first(kept, 2**-i)) for i in range(halvings)]
        fits = [Discriminant.fit(part) for part in parts]
        hits = [fit.scores(left.centre).argmax(axis=1) == left.labels for fit in fits]
        half = fits[min(1, halvings - 1)]
        means = half.means + half.centre - fits[0].centre
        scores = fits[0].scores(left.centre)
        lost = hits[0][:, None].astype(float) - _halved(scores, fits[0].scores_with(left.centre, means, half.counts), left)
        return cls(np.array(hits, float), np.array([len(part.labels) / part.classes for part in parts]), lost)


def _first(shots: Shots, share: float) -> Places:
    """The first photos of each class, one at least."""
    mine = [np.flatnonzero(shots.labels == label) for label in range(shots.classes)]
    return np.concatenate([each[: int(np.ceil(share * len(each)))] for each in mine])


def _halved(scores: Floats, halved: Floats, left: Shots) -> NDArray[np.bool_]:
    """(M, C): whether a photo is labelled right when the column of one class is that of `halved`, the others of `scores`."""
    rows, labels = np.arange(len(scores)), left.labels
    own = scores[rows, labels]
    rest = scores.copy()
    rest[rows, labels] = -np.inf
    second = rest.argmax(axis=1)
    best = rest[rows, second]
    rest[rows, second] = -np.inf
    others = np.repeat(best[:, None], scores.shape[1], axis=1)  # (M, C): the best that is neither the label's nor the column's
    others[rows, second] = rest.max(axis=1)
    right = own[:, None] > np.maximum(others, halved)
    right[rows, labels] = halved[rows, labels] > best
    return np.asarray(right)


def _point(photos: float, right: Floats) -> Point:
    return Point(round(float(photos), 2), float(right.mean()), float(right.std() / np.sqrt(len(right))))


def _gains(lost: Floats, counts: Places, names: tuple[str, ...]) -> tuple[Gain, ...]:
    """From what each photo loses by each class's halving, (M, C)."""
    more = lost * (MORE / (counts + MORE))
    lead = more - (more.sum(axis=1, keepdims=True) - more) / max(len(counts) - 1, 1)
    errors = lead.std(axis=0) / np.sqrt(len(lead))
    ahead = lead.mean(axis=0) > NormalDist().inv_cdf(1 - CHANCE / len(counts)) * errors
    found = [
        Gain(name, int(count), float(one.mean()), float(one.std() / np.sqrt(len(one))), float(ten.mean()), bool(out))
        for name, count, one, ten, out in zip(names, counts, lost.T, more.T, ahead, strict=True)
    ]
    return tuple(sorted(found, key=lambda each: -each.ten_more))
