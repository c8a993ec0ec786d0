"""`auto`, where there is time: methods that learn step by step beside those that are computed at once.

They are learned on half of the photos and measured on the other half, and then the other way round, as is the best closed form,
which a prompt has to beat by more than chance. Where no closed form that learns fits the bytes, one of them is taken unseen.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify import Classifier
from edge_qprompt.learn.at_once import AtOnce, assembled, provenance
from edge_qprompt.learn.by_steps import Progress, learn_by_steps
from edge_qprompt.learn.candidates import LEVEL, Candidate, Expected, budget_of, only_by_hand
from edge_qprompt.learn.labelled import Labelled
from edge_qprompt.learn.method import ClosedForm
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.settings import AdaptSettings
from edge_qprompt.learn.shots import Shots
from edge_qprompt.learn.threads import one_blas_thread
from edge_qprompt.pack import Pack

HALVES = 2
# the first that fits is taken where nothing is measured: docs/adr/0019-discriminant.md
PROMPTS = ("learned-qres", "qcoop", "qcoop+qres")
OPTIONS = {"learned-qres": {"residual_bits": 1}, "qcoop": {}, "qcoop+qres": {"residual_bits": 2}}


class _NoTimeError(Exception):
    """The seconds are over."""


@dataclass(frozen=True)
class _Trial:
    """What all candidates are tried on."""

    backbone: Backbone
    names: Sequence[str]
    train: Labelled
    by_hand: Classifier
    shots: Shots
    ends: float
    progress: Progress

    def learned(self, settings: AdaptSettings, rows: Sequence[int]) -> Pack:
        """A pack of some of the photos. Raises _NoTimeError."""
        part, kind = self.train.take(rows), METHODS[settings.method]
        if issubclass(kind, ClosedForm):
            with one_blas_thread():
                shots = Shots(part.features.values, part.labels, self.by_hand.class_features, self.shots.logit_scale)
                result = kind(shots, settings.method_settings).result()
        else:
            stage = f"try {settings.method}"
            result = learn_by_steps(self.backbone, self.names, settings, part, self.by_hand, self._in_time, stage=stage).result
        told = provenance(settings, settings.loop.over(kind.schedule), len(self.train.labels))
        return assembled(self.backbone, kind.number, result, self.names, told)

    def size(self, settings: AdaptSettings) -> int:
        """Bytes of the pack of all photos: how long it is does not depend on what is learned."""
        start = learn_by_steps(
            self.backbone,
            self.names,
            replace(settings, loop=replace(settings.loop, epochs=0)),
            self.train,
            self.by_hand,
            self.progress,
        )
        told = provenance(settings, settings.loop.over(METHODS[settings.method].schedule), len(self.train.labels))
        return assembled(self.backbone, start.number, start.result, self.names, told).size

    def measured(self, settings: AdaptSettings) -> Expected:
        """By both halves. Raises _NoTimeError."""
        hits = n = 0
        for kept, left in self.shots.folds(HALVES):
            rest = self.train.take(left.tolist())
            probabilities = Classifier(self.backbone, self.learned(settings, kept.tolist())).probabilities(rest.centre)
            hits, n = hits + int((probabilities.argmax(axis=1) == rest.labels).sum()), n + len(rest.labels)
        return Expected.of(hits, n, len(self.shots.labels) / self.shots.classes / HALVES)

    def _in_time(self, stage: str, done: int, total: int, note: str) -> None:
        self.progress(stage, done, total, note)
        if time.perf_counter() > self.ends:
            raise _NoTimeError


def with_prompts(
    backbone: Backbone,
    names: Sequence[str],
    train: Labelled,
    by_hand: Classifier,
    chosen: AtOnce,
    seconds: float,
    progress: Progress,
) -> AtOnce:
    """What to learn with: what was chosen of the closed forms, or a method that learns step by step.

    Args:
        train: the photos.
        by_hand: the hand-written prompt.
        chosen: of the closed forms.
        seconds: to try others in; with 0 there is one only where no closed form that learns fits.
        progress: as of `adapt`.
    """
    alone = only_by_hand(chosen.candidates)
    if not (alone or seconds) or importlib.util.find_spec("torch") is None:
        return chosen
    shots = Shots(train.features.values, train.labels, by_hand.class_features, backbone.manifest.logit_scale)
    trial = _Trial(backbone, names, train, by_hand, shots, time.perf_counter() + (seconds or math.inf), progress)
    tried = [_tried(trial, _named(chosen.settings, name), measure=seconds > 0 and not shots.alone) for name in PROMPTS]
    every = (*chosen.candidates, *tried)
    best, seen = chosen, None
    if seconds > 0 and not shots.alone and not alone:
        with one_blas_thread():
            seen = trial.measured(chosen.settings)
    for candidate in tried:
        if not candidate.fits:
            continue
        found = candidate.expected
        better = alone and best is chosen if found is None else seen is None or found.accuracy > _least(seen)
        if better:
            settings = _named(chosen.settings, candidate.method)
            best, seen = AtOnce(settings, every, None, found), found or seen
    return replace(best, candidates=every)


def _least(seen: Expected) -> float:
    """What another has to be above."""
    return seen.accuracy + LEVEL / math.sqrt(seen.n)


def _named(settings: AdaptSettings, name: str) -> AdaptSettings:
    return replace(settings, method=name, method_settings=replace(settings.method_settings, options=OPTIONS[name]))


def _tried(trial: _Trial, settings: AdaptSettings, *, measure: bool) -> Candidate:
    """One of PROMPTS, measured where that is wanted and there is time."""
    began, seen = time.perf_counter(), None
    size = trial.size(settings)
    fits = size <= budget_of(settings, len(trial.names))
    with suppress(_NoTimeError):
        seen = trial.measured(settings) if measure and fits else None
    return Candidate(settings.method, settings.method_settings.options, size, fits, seen, time.perf_counter() - began)
