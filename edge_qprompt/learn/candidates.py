"""`auto`: which method, in how many bits, is best for some photos and a number of bytes.

Closed forms are tried on photos that were left out, at once. A prompt is learned in their place only where none of them fits:
that takes minutes, and wins where there are few bytes for many classes. Symbols: N photos, C classes.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge_qprompt.errors import PromptError
from edge_qprompt.learn.method import ClosedForm, Option
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.settings import AdaptSettings
from edge_qprompt.learn.shots import Shots

AUTO = "auto"
LEAST_BUDGET, CLASS_BUDGET = 1000, 100  # bytes of a pack, and of each class, where nobody says more
TRIED: tuple[tuple[str, Mapping[str, Option]], ...] = (
    ("zero-shot", {}),
    ("qres", {"residual_bits": 2}),
    ("qgda", {"discriminant_bits": 1}),
    ("qgda", {"discriminant_bits": 2}),
    ("qgda", {"discriminant_bits": 3}),
    ("qgda", {"discriminant_bits": 4}),
)
PREFERRED = "qgda"  # which another has to beat by more than chance
PROMPT = "qcoop"
LEVEL = 0.25  # standard deviations of a number of hits that are chance


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
    def of(cls, hits: int, n: int) -> Expected:
        """From a number of hits among n photos; the margin is Agresti and Coull's (1998)."""
        near = (hits + 2) / (n + 4)
        return cls(hits / n, 2 * math.sqrt(near * (1 - near) / (n + 4)), n)


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


def check_options(name: str, options: Mapping[str, Option]) -> None:
    """Raise a PromptError about options that a method, or AUTO, does not have."""
    if name != AUTO:
        METHODS[name].read_options(options)
    elif options:
        raise PromptError(f"the method {AUTO} has no option {next(iter(options))}: name the method that has it")


def budget_of(settings: AdaptSettings, classes: int) -> int:
    """Bytes that a pack may have: what was said, or CLASS_BUDGET a class, LEAST_BUDGET at least."""
    return settings.budget or max(LEAST_BUDGET, CLASS_BUDGET * classes)


def expected(method: ClosedForm) -> Expected | None:
    """What a closed form makes expect; None where no photo can be left out."""
    scores, labels = method.left_out()
    return Expected.of(int((scores.argmax(axis=1) == labels).sum()), len(labels)) if len(labels) else None


def choose(shots: Shots, settings: AdaptSettings, rest: int) -> tuple[AdaptSettings, tuple[Candidate, ...], ClosedForm | None]:
    """Settings with the best method, all candidates, and that method made for the photos.

    Args:
        shots: what to learn from.
        settings: whose method is AUTO.
        rest: bytes of the pack beside what the method brings.

    Returns:
        None in place of the method where it is a prompt, which has to be learned.
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
    best = _best(candidates)
    if best is None or (
        candidates[best].method == "zero-shot"
        and importlib.util.find_spec("torch") is not None
        and not any(each.fits for each in candidates[1:])
    ):
        return replace(settings, method=PROMPT), tuple(candidates), None
    chosen = candidates[best]
    told = replace(settings.method_settings, options=chosen.options)
    return replace(settings, method=chosen.method, method_settings=told), tuple(candidates), made[best]


def _best(candidates: Sequence[Candidate]) -> int | None:
    """Which one to take of those that fit; of one method in several bits that with the most, whose lead is no chance."""
    last = {each.method: i for i, each in enumerate(candidates) if each.fits}
    if not last:
        return None
    hits = {name: seen.accuracy * seen.n for name, i in last.items() if (seen := candidates[i].expected)}
    if not hits:
        return last.get(PREFERRED, max(last.values()))
    best = max(hits, key=lambda name: hits[name])
    seen = candidates[last[best]].expected
    assert seen
    if PREFERRED in hits and hits[PREFERRED] >= hits[best] - LEVEL * np.sqrt(seen.n):
        best = PREFERRED
    return last[best]
