"""The main job: a data set of photos in, a pack and a report out.

The stages are functions of their inputs, so that the command line, a sweep over many settings and
the tests run the same code. Symbols: N photos, C classes, n learned tokens.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edge_qprompt.backbone import Backbone, name_tokens
from edge_qprompt.classify import Classifier, Scores, zero_shot
from edge_qprompt.console import Bars, in_notebook
from edge_qprompt.errors import BackboneError, DataError, MissingExtraError, PromptError
from edge_qprompt.learn.adaptation import Accuracy, Adaptation, Checked
from edge_qprompt.learn.at_once import assembled, at_once, provenance
from edge_qprompt.learn.by_steps import Learned, Progress, learn_by_steps, stage_of
from edge_qprompt.learn.candidates import AUTO, PREFERRED, check_options
from edge_qprompt.learn.labelled import Labelled, once_each, unseen
from edge_qprompt.learn.method import ClosedForm, Takes
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.settings import AdaptSettings, default_ctx
from edge_qprompt.learn.state import State
from edge_qprompt.learn.state_check import OTHER
from edge_qprompt.learn.with_prompts import with_prompts
from edge_qprompt.pack import Pack, Precision
from edge_qprompt.photos import AnyData, AnyPhoto, Dataset, Photos, Views, dataset_of, features_of, list_photos, source_of

DEFAULTS = AdaptSettings()


def adapt(
    backbone: Backbone,
    data: AnyData,
    settings: AdaptSettings = DEFAULTS,
    checkpoint: Path | None = None,
    *,
    names: Sequence[str] | None = None,
    others: str | Path | Sequence[AnyPhoto] = (),
    resume: bool = False,
    progress: Progress | None = None,
) -> Adaptation:
    """Learn a pack.

    Args:
        backbone: frozen encoders.
        data: photos with their classes, in any form that `photos.dataset_of` takes: a folder, a data set, a list of
            (photo, label) whose photos are paths, bytes, PIL images or arrays, or a tuple (X, y) of features and labels.
        settings: what to do; without any the method is "auto", the best for these photos within 100 bytes a class.
        checkpoint: file to keep checkpoints in; the caller removes it once the pack is safe.
        names: class names in the order of the labels, where the data have numbers.
        others: photos of none of the classes, by which the method qgda says better which photos these are: a folder, a file, or a
            list of photos.
        resume: go on from that file.
        progress: called with stage, done, total and a note; None shows bars in a notebook, and nothing elsewhere.

    Raises:
        DataError: a class without a readable photo.
        PromptError: names that do not fit, an unknown method, or a budget that no pack of these classes fits.
        BackboneError: the method learns inside the image tower, which this backbone does not allow; or no pack can name
            the backbone's precision.
        MissingExtraError: the method learns step by step, and torch is not installed.
        PhotoError: a photo in memory that is none.
    """
    if not isinstance(data, Dataset):
        data = dataset_of(data, names)
        for note in data.notes:
            warnings.warn(note, stacklevel=2)
    with Bars(in_notebook()) as bars:
        return _adapt(backbone, data, _listed(others), settings, checkpoint, resume, progress or bars)


def _adapt(
    backbone: Backbone,
    data: Dataset,
    others: Sequence[AnyPhoto],
    settings: AdaptSettings,
    checkpoint: Path | None,
    resume: bool,
    progress: Progress,
) -> Adaptation:
    asked = replace(settings, n_ctx=_check(backbone, data, settings))
    clock = _Clock()
    shots, spare = data.few_shot(settings.shots, settings.loop.seed)
    held = data.test or (spare if len(spare) else None)
    train, notes = once_each(_encode(backbone, shots, settings.wanted_views, settings, "encode photos", progress), data.names)
    _check_every_class(data, train)
    spares = _encode(backbone, held, Views(), settings, "encode held-out", progress) if held else None
    foreign, more = _others(backbone, others, train, settings, progress)
    clock.lap("encode")
    backbone.close()  # one large thing in memory at a time: image encoder, text encoder, torch with the text tower
    by_hand = zero_shot(backbone, data.names, *settings.method_settings.templates)
    backbone.close()
    state = State.of(backbone, data.names, asked, [train, foreign] if foreign else [train])
    chosen = at_once(backbone, state, by_hand)
    if asked.method == AUTO:
        chosen = with_prompts(backbone, data.names, train, by_hand, chosen, asked.seconds, progress)
    settings, method = chosen.settings, chosen.method
    notes += more
    if foreign and settings.method != PREFERRED:
        notes += (
            f"photos of none of the classes say nothing to the method {settings.method}: only {PREFERRED} tells them apart",
        )
    if method is not None:
        learned = Learned(method.number, method.result(), facts=method.facts())
    else:
        learned = learn_by_steps(backbone, data.names, settings, train, by_hand, progress, checkpoint, resume=resume)
    backbone.close()
    clock.lap("learn")
    told = provenance(settings, learned.schedule, len(train.labels))
    # through the bytes, so that what is measured is what a device will see
    pack = Pack.decode(assembled(backbone, learned.number, learned.result, data.names, told).encode())
    classifier = Classifier(backbone, pack)
    if spares:
        spares, leaks = unseen(spares, state.known, "photos to measure with")
        notes += leaks
    parts = [part for part in (train, spares) if part and len(part.labels)]
    own = parts
    if classifier.backbone is not backbone:  # the pack has an image encoder of its own
        photos = [Photos(part.paths, tuple(part.labels.tolist())) for part in parts]
        own = [_encode(classifier.backbone, each, Views(), settings, "encode with the pack", progress) for each in photos]
    found = [Checked(part.paths, part.labels, classifier.probabilities(part.centre)) for part in own]
    accuracies = [_accuracy(checked, by_hand, part) for checked, part in zip(found, parts, strict=True)]
    held_out = accuracies[1] if len(parts) > 1 else None
    clock.lap("check")
    return Adaptation(
        pack=pack,
        state=replace(state, pack_id=pack.pack_id),
        names=data.names,
        used=len(train.labels),
        skipped=tuple(skipped for part in (train, spares, foreign) if part for skipped in part.features.skipped),
        notes=notes,
        method=settings.method,
        candidates=chosen.candidates,
        expected=chosen.expected,
        run=learned.run,
        facts=learned.facts,
        weights=learned.weights,
        train=accuracies[0],
        held_out=held_out,
        held_out_source=None if held_out is None else "test" if data.test else "unused training photos",
        checked=found[-1],
        seconds=clock.seconds,
        engine=learned.engine,
        snapshots={
            epoch: assembled(backbone, learned.number, result, data.names, told) for epoch, result in learned.snapshots.items()
        },
    )


def _check(backbone: Backbone, data: Dataset, settings: AdaptSettings) -> int:
    """Everything that can fail before minutes of encoding; the number of learned tokens. Raises as `adapt`."""
    named = PREFERRED if settings.method == AUTO else settings.method
    if named not in METHODS:
        raise PromptError(f"unknown method {named!r}, there are {AUTO}, {', '.join(METHODS)}")
    method = METHODS[named]
    if not issubclass(method, ClosedForm) and importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch")
    if backbone.precision.upper() not in Precision.__members__:
        known = ", ".join(name.lower() for name in Precision.__members__)
        raise BackboneError(f"no pack can say that it was learned for {backbone.precision}: open the backbone in one of {known}")
    check_options(None if settings.method == AUTO else method, settings.method_settings.options)
    if method.takes is not Takes.FEATURES and data.train.features is not None:
        raise DataError(f"the method {method.name} learns from the photos themselves: give these instead of features")
    if method.takes is Takes.PIXELS:
        _ = backbone.vision  # raises where it takes nothing inside
    n_ctx = settings.n_ctx or method.n_ctx or default_ctx(backbone.manifest.text.width)
    name_tokens(backbone.tokenizer, data.names, n_ctx)
    return n_ctx


def _encode(
    backbone: Backbone, photos: Photos, views: Views, settings: AdaptSettings, stage: str, progress: Progress
) -> Labelled:
    features = features_of(backbone, photos, views=views, strict=settings.strict, progress=stage_of(progress, stage))
    paths = tuple(photos.paths[i] for i in features.kept)
    return Labelled(features, paths, np.array(photos.labels, np.int64)[features.kept])


def _listed(photos: str | Path | Sequence[AnyPhoto]) -> Sequence[AnyPhoto]:
    if not isinstance(photos, str | Path):
        return photos
    return list_photos(Path(photos)) if Path(photos).is_dir() else [Path(photos)]


def _others(
    backbone: Backbone, others: Sequence[AnyPhoto], train: Labelled, settings: AdaptSettings, progress: Progress
) -> tuple[Labelled | None, tuple[str, ...]]:
    """Photos of none of the classes, and what is to be said of them."""
    if not others:
        return None, ()
    sources = tuple(source_of(photo, f"photo {i} of the others") for i, photo in enumerate(others))
    found = _encode(
        backbone, Photos(sources, (OTHER,) * len(sources)), settings.wanted_views, settings, "encode the others", progress
    )
    if not len(found.labels):
        raise DataError(
            f"none of the {len(sources)} photos of the others can be read; of the first: {found.features.skipped[0][1]}"
        )
    alone, _ = once_each(found, ())
    return unseen(alone, set(train.features.digests), "photos of none of the classes")


def _check_every_class(data: Dataset, train: Labelled) -> None:
    counts = np.bincount(train.labels, minlength=len(data.names))
    if empty := [name for name, count in zip(data.names, counts, strict=True) if not count]:
        raise DataError(f"no readable training photo of {', '.join(empty[:5])}: add some, or remove the class")


def _accuracy(learned: Checked, by_hand: Classifier, part: Labelled) -> Accuracy:
    scores = Scores.of(learned.probabilities, learned.labels)
    return Accuracy(scores.accuracy, Scores.of(by_hand.probabilities(part.centre), part.labels).accuracy, scores.n)


@dataclass
class _Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self.last = now - self.last, now
