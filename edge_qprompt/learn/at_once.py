"""A pack from a state by a closed form: what `adapt` and `teach` have in common. numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify import Classifier
from edge_qprompt.learn.candidates import AUTO, Candidate, Expected, choose, expected
from edge_qprompt.learn.method import ClosedForm, Result
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.settings import AdaptSettings, Schedule
from edge_qprompt.learn.state import State
from edge_qprompt.learn.threads import one_blas_thread
from edge_qprompt.pack import PROVENANCE, Pack, Precision, names_section


@dataclass(frozen=True)
class AtOnce:
    """What learns some photos.

    Attributes:
        settings: with a method in place of "auto".
        candidates: what it was chosen from; empty where a method was named.
        method: made for the photos; None where it has to be learned step by step.
        expected: accuracy to expect on new photos; None where nothing is known.
    """

    settings: AdaptSettings
    candidates: tuple[Candidate, ...]
    method: ClosedForm | None
    expected: Expected | None


def at_once(backbone: Backbone, state: State, by_hand: Classifier) -> AtOnce:
    """The method of a state's settings, or the best for its photos, computed.

    Args:
        by_hand: the hand-written prompt with the state's names.

    Raises:
        PromptError: nothing fits the budget, or an option that the method does not have.
    """
    settings, method = state.settings, None
    candidates: tuple[Candidate, ...] = ()
    shots = state.shots(by_hand.class_features, backbone.manifest.logit_scale)
    with one_blas_thread():
        if settings.method == AUTO:
            rest = assembled(backbone, 0, ((), ()), state.names, provenance(settings, None, state.photos)).size
            settings, candidates, method = choose(shots, settings, rest)
        elif issubclass(kind := METHODS[settings.method], ClosedForm):
            method = kind(shots, settings.method_settings)
        return AtOnce(settings, candidates, method, None if method is None else expected(method))


def assembled(backbone: Backbone, number: int, result: Result, names: Sequence[str], told: str | None) -> Pack:
    """A pack of a method's result, with class names, and how it was learned where that is told."""
    tensors, sections = result
    more = [names_section(names), *([PROVENANCE.section(told)] if told else [])]
    precision = Precision[backbone.precision.upper()]
    return Pack(backbone.manifest.short_fingerprint, number, precision, tensors, (*sections, *more))


def provenance(settings: AdaptSettings, schedule: Schedule | None, photos: int) -> str | None:
    """One line without a clock in it, since the same command must give the same bytes; None where none is wanted.

    Args:
        schedule: None of a closed form.
    """
    if not settings.provenance:
        return None
    views = f"{settings.views} views, seed {settings.loop.seed}"
    if schedule is None:
        return f"{photos} photos, {views}"
    steps = f"{schedule.epochs} epochs, batch {schedule.batch or 'all'}, lr {schedule.peak_lr:g}"
    return f"{photos} photos, {settings.shots} shots, {settings.views} views, {steps}, seed {settings.loop.seed}"
