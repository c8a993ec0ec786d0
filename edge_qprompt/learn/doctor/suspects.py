"""Which labels are likely wrong, and how many are: by what the other photos say of each photo.

A label is thought to be right with probability 1 - e, else any other of the C - 1. With p the probability that the photos' own
discriminant, which has not seen this photo, gives its label, it is wrong with the probability

    e (1 - p) / (C - 1)  over  (1 - e) p + e (1 - p) / (C - 1)

e, the temperature of p, and the weight of the class names beside the photos are those under which all labels together are most
likely. So it is the photos that say how many labels are wrong, and a set of hard classes is not called wrong for being hard.

Then the photos that are likely wrong are taken from what is learned from, and all of them judged again: beside those that were
mislabelled as they are, the others look wrong as well. benchmarks/swapped_labels.py measures what is found.

numpy only. Symbols: N photos, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.learn.doctor.left_out import Discriminant
from edge_qprompt.learn.shots import Labels, Shots

Floats = NDArray[np.float64]

NAMED = 1 / 8  # a photo is worth a look if its label is wrong with this probability
WRONG = 1 / 2  # above it, a photo is not learned from
SHARES = np.array([0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3])  # e
TEMPERATURES = np.geomspace(1, 16, 13)
NAMES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)  # weights of the class names' scores
# What is believed beforehand, which matters with few photos: that e is about 3 %, as of two wrong labels among 62; that the
# temperature is near 4, give or take a factor of 1.6; that the names stay out unless they say something.
RIGHT_BEFORE, WRONG_BEFORE = 60, 2
USUAL_TEMPERATURE, TEMPERATURE_WEIGHT = 4.0, 4.0
NAMES_COST = 0.5
SCORES = 200_000  # of as many, e, the temperature and the weight are estimated: three numbers need no more


@dataclass(frozen=True, eq=False)
class Suspects:
    """What is thought of the labels.

    Attributes:
        wrong: (N,) the probability that a photo's label is wrong; 0 of a class's only photo, which cannot be judged.
        likely: (N,) the label that it would have then.
        answers: (N,) the label that the others give it.
        share: the share of all labels that are wrong, as estimated.
    """

    wrong: Floats
    likely: Labels
    answers: Labels
    share: float

    @classmethod
    def among(cls, shots: Shots) -> Suspects:
        """Of photos of two classes or more, of which one has two photos or more."""
        counts = np.bincount(shots.labels)
        single = counts[shots.labels] == 1
        names = _in_deviations(shots.centre @ shots.by_hand.T)
        scores = _in_deviations(Discriminant.fit(shots).left_out(shots))
        belief = _Belief.most_likely(scores[~single], names[~single], shots.labels[~single])
        wrong = belief.wrong(scores, names, shots.labels)
        kept = (wrong < WRONG) | single
        if not kept.all() and (np.bincount(shots.labels[kept], minlength=shots.classes) >= np.minimum(counts, 2)).all():
            others = shots.of(np.flatnonzero(kept))
            learned = Discriminant.fit(others)
            again = learned.scores(shots.centre)
            again[kept] = learned.left_out(others)
            scores = _in_deviations(again)
            belief = _Belief.most_likely(scores[~single], names[~single], shots.labels[~single])
            wrong = belief.wrong(scores, names, shots.labels)
        said = belief.said(scores, names)
        answers = said.argmax(axis=1)
        said[np.arange(len(said)), shots.labels] = -np.inf
        return cls(np.where(single, 0.0, wrong), said.argmax(axis=1), answers, belief.share)


@dataclass(frozen=True, eq=False)
class _Belief:
    """Weight of the names, temperature, and share of wrong labels."""

    names: float
    temperature: float
    share: float

    @classmethod
    def most_likely(cls, scores: Floats, names: Floats, labels: Labels) -> _Belief:
        """Under which the labels (N,) are most likely, with what is believed beforehand."""
        before = WRONG_BEFORE * np.log(SHARES) + RIGHT_BEFORE * np.log1p(-SHARES)  # (E,)
        some = slice(None, None, max(1, scores.size // SCORES))
        scores, names, labels = scores[some], names[some], labels[some]
        others, best, found = scores.shape[1] - 1, -np.inf, cls(0.0, USUAL_TEMPERATURE, 0.0)
        for weight in NAMES:
            said = scores + weight * names
            for temperature in TEMPERATURES:
                own = _own_probability(temperature * said, labels)[:, None]  # (N, 1)
                right, wrong = (1 - SHARES) * own, SHARES / others * (1 - own)  # (N, E)
                likely = np.log(right + wrong + np.finfo(float).tiny).sum(axis=0) + before
                likely -= TEMPERATURE_WEIGHT * np.log(temperature / USUAL_TEMPERATURE) ** 2 / 2 + NAMES_COST * (weight > 0)
                at = int(likely.argmax())
                if likely[at] > best:
                    best, found = likely[at], cls(weight, float(temperature), float(SHARES[at]))
        return found

    def said(self, scores: Floats, names: Floats) -> Floats:
        """(N, C), of both together."""
        return scores + self.names * names

    def wrong(self, scores: Floats, names: Floats, labels: Labels) -> Floats:
        """(N,): the probability that a label is wrong."""
        own = _own_probability(self.temperature * self.said(scores, names), labels)
        right, wrong = (1 - self.share) * own, self.share / (scores.shape[1] - 1) * (1 - own)
        return np.asarray(wrong / (right + wrong + np.finfo(float).tiny))


def _own_probability(logits: Floats, labels: Labels) -> Floats:
    """(N,) softmax of logits (N, C), of each photo's own label."""
    logits = logits - logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(labels)), labels]
    return np.asarray(np.exp(own) / np.exp(logits).sum(axis=1))


def _in_deviations(scores: NDArray[np.floating]) -> Floats:
    """Scores (N, C) in standard deviations over the classes."""
    scores = scores - scores.mean(axis=1, keepdims=True)
    return np.asarray(scores / (scores.std() or 1.0), np.float64)
