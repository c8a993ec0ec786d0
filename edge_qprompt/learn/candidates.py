"""`auto`: which method, in how many bits, is best for some photos and a number of bytes.

Closed forms are tried on photos that were left out, at once. What `with_prompts` has is learned in their place only where none of
them fits, or where somebody gives it time. Symbols: N photos, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edge_qprompt.errors import PromptError
from edge_qprompt.learn.method import ClosedForm, Method, Option
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.settings import AdaptSettings
from edge_qprompt.learn.shots import Shots

AUTO = "auto"
BY_HAND = "zero-shot"
LEAST_BUDGET, CLASS_BUDGET = 1000, 100  # bytes of a pack, and of each class, where nobody says more
TRIED: tuple[tuple[str, Mapping[str, Option]], ...] = (
    (BY_HAND, {}),
    ("qres", {"residual_bits": 2}),
    ("qgda", {"discriminant_bits": 1}),
    ("qgda", {"discriminant_bits": 2}),
    ("qgda", {"discriminant_bits": 3}),
    ("qgda", {"discriminant_bits": 4}),
)
PREFERRED = "qgda"  # which another has to beat by more than chance
PROMPT = "qcoop"
FEWER = 0.25  # see Expected.of
LEVEL = 0.25  # standard deviations of an accuracy that are chance, at most half of them


@dataclass(frozen=True)
class Expected:
    """Accuracy to expect on new photos, from photos that were left out in turn; shares from 0 to 1.

    Attributes:
        accuracy: of the photos left out.
        margin: half of a 95 % interval.
        n: photos left out.
    """

    accuracy: float
    margin: float
    n: int

    @classmethod
    def of(cls, hits: int, n: int, each: float) -> Expected:
        """From a number of hits among n photos of so many a class.

        The margin is Agresti and Coull's (1998), and what it costs that each photo is labelled by fewer than all: a quarter
        over the photos a class (docs/adr/0019-discriminant.md).
        """
        near = (hits + 2) / (n + 4)
        return cls(hits / n, 2 * math.sqrt(near * (1 - near) / (n + 4)) + FEWER / each, n)


@dataclass(frozen=True)
class Candidate:
    """One way to learn some photos, and what came of it.

    Attributes:
        method: a key of METHODS.
        options: of the method.
        bytes: of the pack.
        fits: whether these are within the budget; what does not fit is not tried.
        expected: accuracy on photos left out; None where none could be, or it was not tried.
        seconds: that this took.
    """

    method: str
    options: Mapping[str, Option]
    bytes: int
    fits: bool
    expected: Expected | None
    seconds: float

    @property
    def bits(self) -> int | None:
        """Bits a weight; None of a method without."""
        return next((int(value) for value in self.options.values()), None)


def check_options(method: type[Method] | None, options: Mapping[str, Option]) -> None:
    """Raise a PromptError about options that a method does not have; None is AUTO."""
    if method is not None:
        method.read_options(options)
    elif options:
        raise PromptError(f"the method {AUTO} has no option {next(iter(options))}: name the method that has it")


def budget_of(settings: AdaptSettings, classes: int) -> int:
    """Bytes that a pack may have: what was said, or CLASS_BUDGET a class, LEAST_BUDGET at least."""
    return settings.budget or max(LEAST_BUDGET, CLASS_BUDGET * classes)


def expected(method: ClosedForm) -> Expected | None:
    """What a closed form makes expect; None where no photo can be left out."""
    scores, labels = method.left_out()
    if not len(labels):
        return None
    shots = method.shots
    return Expected.of(int((scores.argmax(axis=1) == labels).sum()), len(labels), len(shots.labels) / shots.classes)


def only_by_hand(candidates: Sequence[Candidate]) -> bool:
    """Whether nothing that learns fits."""
    return {each.method for each in candidates if each.fits} == {BY_HAND}


def choose(shots: Shots, settings: AdaptSettings, rest: int) -> tuple[AdaptSettings, tuple[Candidate, ...], ClosedForm]:
    """Settings with the best method, all candidates, and that method made for the photos.

    Args:
        shots: what to learn from.
        settings: whose method is AUTO.
        rest: bytes of the pack beside what the method brings.

    Raises:
        PromptError: nothing fits.
    """
    budget = budget_of(settings, shots.classes)
    candidates, made = [], []
    for name, options in TRIED:
        kind = METHODS[name]
        assert issubclass(kind, ClosedForm)
        began = time.perf_counter()
        method = kind(shots, replace(settings.method_settings, options=options))
        size = rest + method.size
        fits = size <= budget
        seen = expected(method) if fits else None
        candidates.append(Candidate(name, options, size, fits, seen, time.perf_counter() - began))
        made.append(method)
    if not any(each.fits for each in candidates):
        least = min(each.bytes for each in candidates)
        raise PromptError(
            f"no pack of {shots.classes} classes fits {budget} bytes, their names take {rest}: allow {least} at least"
        )
    best = _best(candidates, shots.few)
    told = replace(settings.method_settings, options=candidates[best].options)
    return replace(settings, method=candidates[best].method, method_settings=told), tuple(candidates), made[best]


def _best(candidates: Sequence[Candidate], few: bool) -> int:
    """Which one to take of those that fit: of one method that with the most bits, of all methods that whose lead is no chance.

    With few photos PREFERRED: the hand-written prompt would be measured on all of them, others as if there were fewer still.
    """
    last = {each.method: i for i, each in enumerate(candidates) if each.fits}
    seen = {name: found for name, i in last.items() if (found := candidates[i].expected)}
    if PREFERRED in last and (few or PREFERRED not in seen):
        return last[PREFERRED]
    best = max(seen, key=lambda name: seen[name].accuracy) if seen else max(last, key=lambda name: last[name])
    if PREFERRED in seen and seen[PREFERRED].accuracy >= seen[best].accuracy - LEVEL / math.sqrt(seen[PREFERRED].n):
        best = PREFERRED
    return last[best]
