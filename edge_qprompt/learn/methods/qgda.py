"""QGDA: a Gaussian discriminant in b bits a weight, in closed form, which knows when it does not know.

`gaussian` has the formulas, `edge_qprompt.classify.discriminant` what a device does with them. All that is chosen, is chosen on
photos that were left out: the temperature, whether the class names help, below which familiarity a photo shows none of the
classes, and where the choice lies between classes with photos and names alone (some classes at a time play unseen).

Our own but for the discriminant. numpy only. Symbols: N photos, C classes, D dimensions of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.classify import FAR, NEAR, familiarity
from edge_qprompt.codebook import MAX_BITS
from edge_qprompt.learn.method import ClosedForm, Result
from edge_qprompt.learn.methods.gaussian import Gaussian, Rows, spread_of
from edge_qprompt.learn.shots import Labels, Shots
from edge_qprompt.pack import DECISION, Decision, templates_section

Floats = NDArray[np.float64]

TEXT_WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)  # of the names' scores, both in standard deviations
FEW_TEXT_WEIGHT = 0.2  # with few photos, where the names alone are right about half of them
LEVEL = 0.25  # standard deviations of a number of hits: the names stay out unless they win by more
TEMPERATURES = np.geomspace(0.5, 16, 21)
LOST = 0.03  # of rightly labelled photos that were left out, those that seem unknown: one in twenty at most of new ones
MOST_LOST = 0.05  # the same, where photos of none of the classes are known
NAMES_WEIGHT = 0.1  # of the names' lead, in standard deviations, in the choice between classes with and without photos
FEWEST_UNSEEN = 3  # classes of which some can play unseen
UNSEEN_GROUPS = 8  # at most
LEAST_DISTANCE = 1e-3  # of photos that are all the same
UNKNOWN_NEVER = -6e4  # a familiarity that no photo is below, in float16


@dataclass(frozen=True)
class DiscriminantOptions:
    """Of the discriminant.

    Attributes:
        discriminant_bits: b of a weight, 1 to 8.
    """

    discriminant_bits: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.discriminant_bits <= MAX_BITS:
            raise ValueError(f"discriminant_bits is {self.discriminant_bits}, it can be 1 to {MAX_BITS}")


class QGDA(ClosedForm):
    """Method `qgda`."""

    name, number = "qgda", 21
    Options = DiscriminantOptions
    options: DiscriminantOptions

    def result(self) -> Result:
        """The rows, the mean feature, the decision and the templates."""
        shots, left = self.shots, self.left_out_scores
        gaussian, rows = self._learned
        temperature = _temperature(left, self.text_weight)
        factor = temperature / shots.logit_scale
        spread = spread_of(shots.centre @ shots.by_hand.T)
        about = gaussian.mean.values()
        distance = max(float(np.linalg.norm(shots.centre - about, axis=1).mean()), LEAST_DISTANCE)
        seen = _seen(shots, left, self.text_weight)
        unknown = _unknown(shots, left, self.text_weight)
        decision = Decision(temperature, distance, unknown, self.text_weight * factor / spread, NAMES_WEIGHT / spread, seen)
        return rows.tensors(factor / gaussian.spread), (templates_section(self.settings.templates), DECISION.section(decision))

    @property
    def size(self) -> int:
        """As of `ClosedForm`."""
        # of zeros, since scores may be of any size before they are scaled
        tensors, decision = self._learned[1].tensors(0.0), DECISION.section(Decision(1, 1, 0, 0, 0, 0))
        return sum(tensor.size for tensor in tensors) + decision.size + templates_section(self.settings.templates).size

    @cached_property
    def _learned(self) -> tuple[Gaussian, Rows]:
        gaussian = Gaussian.of(self.shots)
        return gaussian, gaussian.rows(self.options.discriminant_bits)

    def left_out(self) -> tuple[Floats, Labels]:
        """Scores (M, C) and labels (M,) of the photos that can be left out."""
        return self.left_out_scores.logits(self.text_weight), self.left_out_scores.labels

    @cached_property
    def left_out_scores(self) -> Scored:
        """What discriminants of the other photos say of each photo."""
        shots = self.shots
        bits = self.options.discriminant_bits
        parts = [Scored.of(kept, left, bits) for kept, left in shots.parts]
        return Scored.joined(parts) if parts else Scored.nothing(shots)

    @cached_property
    def text_weight(self) -> float:
        """Weight of the names' scores beside the discriminant's."""
        if self.shots.few:
            right = (self.shots.centre @ self.shots.by_hand.T).argmax(axis=1) == self.shots.labels
            return FEW_TEXT_WEIGHT if right.mean() >= 0.5 else 0.0
        left = self.left_out_scores
        hits = [int((left.logits(weight).argmax(axis=1) == left.labels).sum()) for weight in TEXT_WEIGHTS]
        least = max(hits) - LEVEL * np.sqrt(len(left.labels))
        return next(weight for weight, count in zip(TEXT_WEIGHTS, hits, strict=True) if count >= least)


@dataclass(frozen=True)
class Scored:
    """Photos that a discriminant has not seen, by what it says of them.

    Attributes:
        scores: (M, C) of the discriminant, in standard deviations over the classes.
        names: (M, C) of the class names, likewise.
        distances: (M,) from the mean feature, over their mean.
        labels: (M,).
    """

    scores: Floats
    names: Floats
    distances: Floats
    labels: Labels

    @classmethod
    def of(cls, kept: Shots, left: Shots, bits: int | None = None) -> Scored:
        """Photos `left` by the discriminant of photos `kept`, in bits a weight; None leaves it in floating point."""
        gaussian = Gaussian.of(kept)
        scores = (gaussian.rows(bits) if bits else gaussian).scores(left.centre) / gaussian.spread
        about = gaussian.mean.values()
        distances = np.linalg.norm(left.centre - about, axis=1) / np.linalg.norm(kept.centre - about, axis=1).mean()
        names = left.centre @ kept.by_hand.T / spread_of(kept.centre @ kept.by_hand.T)
        return cls(scores, names.astype(np.float64), distances.astype(np.float64), left.labels)

    @classmethod
    def joined(cls, parts: list[Scored]) -> Scored:
        """All of them."""
        columns = ("scores", "names", "distances", "labels")
        return cls(*(np.concatenate([getattr(part, column) for part in parts]) for column in columns))

    @classmethod
    def nothing(cls, shots: Shots) -> Scored:
        """No photo."""
        empty = np.zeros((0, shots.classes))
        return cls(empty, empty, np.zeros(0), np.zeros(0, np.int64))

    def logits(self, text_weight: float) -> Floats:
        """(M, C) scores of both together, in standard deviations of the discriminant's."""
        return self.scores + text_weight * self.names

    def familiarity(self, text_weight: float, weight: float = FAR) -> Floats:
        """(M,), see `classify.familiarity`."""
        return np.asarray(familiarity(self.logits(text_weight), self.distances, weight), np.float64)


def _temperature(left: Scored, text_weight: float) -> float:
    """What scores are multiplied with: the least cross-entropy over photos that were left out."""
    if not len(left.labels):
        return float(TEMPERATURES[len(TEMPERATURES) // 2])
    scores = left.logits(text_weight)
    scores = scores - scores[np.arange(len(scores)), left.labels][:, None]
    losses = [np.logaddexp.reduce(each * scores, axis=1).mean() for each in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def _unknown(shots: Shots, left: Scored, text_weight: float) -> float:
    """Familiarity below which a photo shows none of the classes.

    LOST of the photos that are labelled right are below it. With photos of none of the classes it may be higher, where fewest of
    both kinds are taken for the other, by shares, but at most MOST_LOST of those labelled right are lost, or one.
    """
    right = left.logits(text_weight).argmax(axis=1) == left.labels
    if not right.any():
        return UNKNOWN_NEVER
    own = left.familiarity(text_weight)[right]
    if shots.others is None:
        return float(np.quantile(own, LOST))
    # by the same discriminants as the photos that were left out of them, else the two could not be compared
    strange = replace(shots, features=shots.others[:, None])
    parts = [Scored.of(kept, strange).familiarity(text_weight) for kept, _ in shots.parts]
    foreign = np.concatenate(parts) if parts else own
    places = np.sort(np.concatenate([own, foreign]))
    between = np.concatenate([places[:1], (places[1:] + places[:-1]) / 2])
    lost = np.searchsorted(np.sort(own), between) / len(own)
    passed = 1 - np.searchsorted(np.sort(foreign), between) / len(foreign)
    wrong = np.where(lost <= max(MOST_LOST, 1 / len(own)), lost + passed, np.inf)
    best = between[np.flatnonzero(wrong == wrong.min())[-1]]  # the highest: others yet may look more like the classes
    return float(max(best, np.quantile(own, LOST)))


def _seen(shots: Shots, left: Scored, text_weight: float) -> float:
    """Where the choice lies between classes with photos and classes that are names alone.

    Halfway between the medians of photos whose class has photos, left out in turn, and of photos whose class plays unseen; of
    the names, every other one plays a name alone, then the others do.
    """
    if shots.classes < FEWEST_UNSEEN:
        return -NEAR
    order = np.arange(len(shots.labels)) if shots.alone else np.concatenate([out for _, out in shots.folds()])
    inside = Scored.of(shots, shots) if shots.alone else left
    cosines, half = shots.centre @ shots.by_hand.T, np.arange(shots.classes) % 2
    mine = half[shots.labels][:, None] == half  # (N, C): names in the half of a photo's class
    lead = np.where(mine, cosines, -1).max(axis=1) - np.where(mine, -1, cosines).max(axis=1)
    lead = NAMES_WEIGHT * lead / spread_of(cosines)  # (N,), of the names of the photo's half over the others
    groups = np.arange(shots.classes) % min(UNSEEN_GROUPS, shots.classes)
    unseen = []
    for group in np.unique(groups):
        known, others = shots.among(np.flatnonzero(groups != group)), shots.among(np.flatnonzero(groups == group))
        familiar = Scored.of(known, others).familiarity(text_weight, NEAR)
        unseen.append(familiar - lead[groups[shots.labels] == group])
    seen = inside.familiarity(text_weight, NEAR) + lead[order]
    return float(np.median(seen) + np.median(np.concatenate(unseen))) / 2
