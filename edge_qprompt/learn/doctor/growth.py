"""What more photos would bring: accuracy over photos a class, and what each class's own photos have brought so far.

The curve: of each class a half, a quarter, ... of the photos are learned from, and the others are labelled; of all, each photo is
labelled by what the others teach. For a class by itself half of its photos are taken away, drawn again and again, and all
photos are labelled once more by those that are left. Only classes of whose photos many are labelled wrong are tried, since no
other has much to gain.

What is still to come is foreseen from the last doubling: with an accuracy of a - b / n by n photos, the next doubling brings
half of what the last one has brought.

numpy only. Symbols: N photos, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.learn.doctor.left_out import Discriminant
from edge_qprompt.learn.shots import Places, Shots

Floats = NDArray[np.float64]

DRAWS = 10  # at most
PHOTOS = 20_000  # learned from in all draws, about: more photos have fewer draws
TRIED = 12  # classes
JUDGED = 2000  # photos, at most, that are labelled without each half of a class
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
        ten_more: accuracy that ten more photos of it are foreseen to bring, less what is luck in being first.
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
        gains: of the classes that were tried, those first of which ten more photos are foreseen to bring most.
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
        rng = np.random.default_rng(seed)
        draws = int(np.clip(PHOTOS // len(shots.labels), 1, DRAWS))
        many = np.bincount(shots.labels)[shots.labels] > 1
        right = _right(Discriminant.fit(shots).left_out(shots), shots)
        curve = (*_curve(shots, draws, rng), _point(len(shots.labels) / shots.classes, right[many]))
        doubled = None
        if len(curve) > 1:
            doubled = min(1.0, curve[-1].accuracy + max(0.0, curve[-1].accuracy - curve[-2].accuracy) / 2)
        return cls(curve, doubled, _gains(shots, right, many, names, draws, rng))


def _curve(shots: Shots, draws: int, rng: np.random.Generator) -> Iterator[Point]:
    """Of half of each class and less, from fewest photos to most; of a quarter and less, as many of each class."""
    counts = np.bincount(shots.labels)
    usual = float(np.median(counts))
    for halvings in range(int(np.log2(usual)), 0, -1):
        sizes = counts // 2 if halvings == 1 else np.minimum(counts, int(usual * 2**-halvings))
        hits, times, size = np.zeros(len(shots.labels)), np.zeros(len(shots.labels)), 0
        for _ in range(draws):
            part = np.concatenate([_drawn(shots, label, int(count), rng) for label, count in enumerate(sizes)])
            rest = np.setdiff1d(np.arange(len(shots.labels)), part)
            hits[rest] += _right(Discriminant.fit(shots.of(part)).scores(shots.centre[rest]), shots.of(rest))
            times[rest] += 1
            size = len(part)
        yield _point(size / shots.classes, hits[times > 0] / times[times > 0])


def _gains(
    shots: Shots, right: Floats, many: NDArray[np.bool_], names: tuple[str, ...], draws: int, rng: np.random.Generator
) -> tuple[Gain, ...]:
    """Of the classes with most photos that are labelled wrong; `right` (N,) is of all photos, `many` (N,) can be left out."""
    judged = np.sort(rng.permutation(np.flatnonzero(many))[:JUDGED])
    counts = np.bincount(shots.labels)
    wrong = np.bincount(shots.labels, weights=~(right > 0) & many, minlength=shots.classes)
    tried = [int(c) for c in np.argsort(-wrong, kind="stable") if counts[c] > 1][:TRIED]
    lost = np.zeros((len(judged), len(tried)))
    for _ in range(draws):
        for column, label in enumerate(tried):
            lost[:, column] += (right[judged] - _without_half(shots, judged, label, rng)) / draws
    more = lost * (MORE / (counts[tried] + MORE))
    lead = more - (more.sum(axis=1, keepdims=True) - more) / max(len(tried) - 1, 1)
    ahead = lead.mean(axis=0) > NormalDist().inv_cdf(1 - CHANCE / len(tried)) * _errors(lead)
    rows = zip(tried, lost.mean(axis=0), _errors(lost), _shrunk(more.mean(axis=0), _errors(more)), ahead, strict=True)
    found = [Gain(names[c], int(counts[c]), float(one), float(error), float(ten), bool(out)) for c, one, error, ten, out in rows]
    return tuple(found[i] for i in np.argsort(-more.mean(axis=0), kind="stable"))


def _without_half(shots: Shots, judged: Places, label: int, rng: np.random.Generator) -> Floats:
    """Which of the judged photos (J,) are labelled right when half of a class is not learned from, nor is the photo itself."""
    kept = np.concatenate(
        [np.flatnonzero(shots.labels != label), _drawn(shots, label, int((shots.labels == label).sum()) // 2, rng)]
    )
    learned, photos = Discriminant.fit(shots.of(kept)), shots.of(judged)
    inside = np.isin(judged, kept)[:, None]
    return _right(np.where(inside, learned.left_out(photos), learned.scores(photos.centre)), photos)


def _drawn(shots: Shots, label: int, count: int, rng: np.random.Generator) -> Places:
    """So many photos of a class, one at least."""
    mine = rng.permutation(np.flatnonzero(shots.labels == label))
    return np.asarray(mine[: max(1, count)])


def _right(scores: Floats, shots: Shots) -> Floats:
    """(N,): 1 where the photo's own label scores (N, C) most, else 0."""
    return np.asarray(scores.argmax(axis=1) == shots.labels, np.float64)


def _shrunk(values: Floats, errors: Floats) -> Floats:
    """Values (C,) drawn towards their mean, as far as they differ by chance: the first of many is first by luck too.

    Source: Morris, "Parametric empirical Bayes inference" (JASA 1983).
    """
    spread = float(values.var())
    kept = max(0.0, 1 - float((errors**2).mean()) / spread) if spread else 0.0
    return np.asarray(values.mean() + kept * (values - values.mean()))


def _errors(values: Floats) -> Floats:
    """(C,) standard errors of the means of values (N, C)."""
    return np.asarray(values.std(axis=0) / np.sqrt(len(values)))


def _point(photos: float, right: Floats) -> Point:
    return Point(round(float(photos), 2), float(right.mean()), float(right.std() / np.sqrt(len(right))))
