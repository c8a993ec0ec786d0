"""The main job: a data set of photos in, a pack and a report out.

The stages are functions of their inputs, so that the command line, a sweep over many settings and
the tests run the same code. Symbols: N photos, C classes, n learned tokens.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Backbone, name_tokens
from edge_qprompt.classify import Classifier, Scores, zero_shot
from edge_qprompt.console import Bars, in_notebook
from edge_qprompt.errors import BackboneError, DataError, MissingExtraError, PromptError
from edge_qprompt.learn.candidates import AUTO, PREFERRED, Candidate, Expected, check_options, choose, expected
from edge_qprompt.learn.method import ClosedForm, Result, Takes
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.run import Run
from edge_qprompt.learn.settings import AdaptSettings, Schedule, default_ctx
from edge_qprompt.learn.shots import Shots
from edge_qprompt.learn.threads import one_blas_thread, torch_threads
from edge_qprompt.pack import PROVENANCE, Pack, Precision, Section, names_section
from edge_qprompt.photos import AnyData, Dataset, Features, Photos, Source, Views, dataset_of, features_of

Progress = Callable[[str, int, int, str], None]
DEFAULTS = AdaptSettings()


@dataclass(frozen=True)
class Labelled:
    """Features, files and labels (N,) int64 of the photos that could be read."""

    features: Features
    paths: tuple[Source, ...]
    labels: NDArray[np.int64]

    @property
    def centre(self) -> NDArray[np.float32]:
        """Features of the centre crops, (N, D)."""
        return self.features.values[:, 0]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the pack and of the hand-written prompt on the same photos, 0 to 1."""

    pack: float
    zero_shot: float
    n: int


@dataclass(frozen=True)
class Checked:
    """What the pack says of photos: their files, right labels (N,) and probabilities (N, C)."""

    paths: tuple[Source, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass
class Adaptation:
    """What came out.

    Attributes:
        pack: ready to save.
        names: the classes.
        used, skipped: training photos learned from; those that could not be read, and why.
        method: that learned it.
        candidates: what "auto" chose from; empty where a method was named.
        expected: accuracy to expect on new photos, by photos that were left out; None of methods that learn step by step, or
            where no class has a second photo.
        run: what the loop did.
        facts: the method's own numbers.
        weights: what was learned, by name, before it was quantized.
        train: accuracy on the photos learned from (their centre crops).
        held_out: accuracy on the test split, else on training photos beyond the shots, else None.
        held_out_source: "test", "unused training photos" or None.
        checked: the held-out photos one by one, or those learned from where there are no others.
        seconds: by stage.
        engine: name of what computed the steps, and a note about it; empty where nothing was learned.
        snapshots: packs by epoch, if they were wanted.
    """

    pack: Pack
    names: tuple[str, ...]
    used: int
    skipped: tuple[tuple[Source, str], ...]
    method: str
    candidates: tuple[Candidate, ...]
    expected: Expected | None
    run: Run
    facts: dict[str, Any]
    weights: dict[str, NDArray[np.float32]]
    train: Accuracy
    held_out: Accuracy | None
    held_out_source: str | None
    checked: Checked
    seconds: dict[str, float]
    engine: tuple[str, str] = ("", "")
    snapshots: dict[int, Pack] = field(default_factory=dict)

    def __repr__(self) -> str:
        measured, source = self.held_out or self.train, self.held_out_source or "photos learned from"
        found = f"{measured.pack:.3f} ({source})"
        if not self.held_out and self.expected:
            found = f"{self.expected.accuracy:.3f} to expect, +- {self.expected.margin:.3f} (photos left out in turn)"
        return (
            f"<Adaptation to {len(self.names)} classes from {self.used} photos by {self.method}: {self.pack.size} bytes, "
            f"accuracy {found}, hand-written prompt {measured.zero_shot:.3f}>"
        )


def adapt(
    backbone: Backbone,
    data: AnyData,
    settings: AdaptSettings = DEFAULTS,
    checkpoint: Path | None = None,
    *,
    names: Sequence[str] | None = None,
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
        return _adapt(backbone, data, settings, checkpoint, resume, progress or bars)


def _adapt(
    backbone: Backbone, data: Dataset, settings: AdaptSettings, checkpoint: Path | None, resume: bool, progress: Progress
) -> Adaptation:
    settings = replace(settings, n_ctx=_check(backbone, data, settings))
    clock = _Clock()
    shots, spare = data.few_shot(settings.shots, settings.loop.seed)
    held = data.test or (spare if len(spare) else None)
    train = _encode(backbone, shots, _views(settings), settings, "encode photos", progress)
    _check_every_class(data, train)
    spares = _encode(backbone, held, Views(), settings, "encode held-out", progress) if held else None
    clock.lap("encode")
    backbone.close()  # one large thing in memory at a time: image encoder, text encoder, torch with the text tower
    by_hand = zero_shot(backbone, data.names, *settings.method_settings.templates)
    backbone.close()
    more = [names_section(data.names)]
    said = [PROVENANCE.section(_provenance(settings, settings.loop.over(Schedule()), len(train.labels)))] * settings.provenance
    rest = Pack(backbone.manifest.short_fingerprint, 0, Precision.FP32, (), (*more, *said)).size
    with one_blas_thread():
        settings, candidates, closed = _chosen(backbone, settings, train, by_hand, rest)
        learned = None if closed is None else _closed(backbone, settings, closed)
    if learned is None:
        learned = _learn(backbone, data, settings, train, by_hand, checkpoint, resume, progress)
    backbone.close()
    clock.lap("learn")
    if settings.provenance:
        more += [PROVENANCE.section(_provenance(settings, learned.schedule, len(train.labels)))]
    # through the bytes, so that what is measured is what a device will see
    pack = Pack.decode(learned.pack(backbone, learned.result, more).encode())
    classifier = Classifier(backbone, pack)
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
        names=data.names,
        used=len(train.labels),
        skipped=train.features.skipped + (spares.features.skipped if spares else ()),
        method=settings.method,
        candidates=candidates,
        expected=expected(closed) if closed is not None else None,
        run=learned.run,
        facts=learned.facts,
        weights=learned.weights,
        train=accuracies[0],
        held_out=held_out,
        held_out_source=None if held_out is None else "test" if data.test else "unused training photos",
        checked=found[-1],
        seconds=clock.seconds,
        engine=learned.engine,
        snapshots={epoch: learned.pack(backbone, result, more) for epoch, result in learned.snapshots.items()},
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


@dataclass(frozen=True)
class _Learned:
    """What is left of a method when its tower has gone from memory."""

    number: int
    precision: Precision
    result: Result
    snapshots: dict[int, Result]
    facts: dict[str, Any]
    weights: dict[str, NDArray[np.float32]]
    schedule: Schedule
    run: Run
    engine: tuple[str, str]

    def pack(self, backbone: Backbone, result: Result, more: Sequence[Section]) -> Pack:
        """A result as a pack, with more sections."""
        tensors, sections = result
        return Pack(backbone.manifest.short_fingerprint, self.number, self.precision, tensors, (*sections, *more))


def _chosen(
    backbone: Backbone, settings: AdaptSettings, train: Labelled, by_hand: Classifier, rest: int
) -> tuple[AdaptSettings, tuple[Candidate, ...], ClosedForm | None]:
    """Settings with a method in place of "auto", what it was chosen from, and the method where it is a closed form.

    Args:
        rest: bytes of a pack beside what the method brings.
    """
    shots = Shots(train.features.values, train.labels, by_hand.class_features, backbone.manifest.logit_scale)
    if settings.method == AUTO:
        return choose(shots, settings, rest)
    kind = METHODS[settings.method]
    return settings, (), kind(shots, settings.method_settings) if issubclass(kind, ClosedForm) else None


def _closed(backbone: Backbone, settings: AdaptSettings, method: ClosedForm) -> _Learned:
    precision, schedule = Precision[backbone.precision.upper()], settings.loop.over(method.schedule)
    return _Learned(method.number, precision, method.result(), {}, method.facts(), {}, schedule, Run(), ("", ""))


def _learn(
    backbone: Backbone,
    data: Dataset,
    settings: AdaptSettings,
    train: Labelled,
    by_hand: Classifier,
    checkpoint: Path | None,
    resume: bool,
    progress: Progress,
) -> _Learned:
    # only now, when the encoders have gone: torch is 200 MB
    from edge_qprompt.learn.checkpoint import CheckpointFile
    from edge_qprompt.learn.inputs import Inputs
    from edge_qprompt.learn.loop import learn
    from edge_qprompt.learn.problem import Problem, initial_context
    from edge_qprompt.learn.teacher import Teacher

    kind, teacher = METHODS[settings.method], None
    if kind.takes is Takes.TEACHER:
        templates, told = settings.method_settings.templates, _stage(progress, "encode in fp32")
        teacher = Teacher.of(backbone, data.names, templates, train.paths, _views(settings), told)
    if kind.takes is Takes.PIXELS:
        backbone = backbone.in_float()  # as packs that change the encoders run
    assert settings.n_ctx
    start = initial_context(backbone, settings.n_ctx, settings.loop.seed, words=settings.words, padded=kind.pads_words)
    features, labels, classes = train.features.values, train.labels, by_hand.class_features
    problem = Problem.of(backbone, data.names, start, features, labels, classes, settings.engine, teacher)
    method = kind(problem, settings.method_settings)
    schedule = settings.loop.over(method.schedule)
    file = CheckpointFile(checkpoint, _digest(backbone, data, settings, schedule, train), resume) if checkpoint else None

    snapshots: dict[int, Result] = {}

    def tell(epoch: int, epochs: int, loss: float) -> None:
        progress("learn", epoch, epochs, f"loss {loss:.3f}")
        if settings.snapshot_epochs and epoch % settings.snapshot_epochs == 0:
            snapshots[epoch] = method.result()

    inputs = Inputs.of(method, problem, train.paths, _views(settings))
    with torch_threads(inputs.threads):
        run = learn(method, inputs.values, problem.labels, settings.loop, file, tell)
    precision = Precision[backbone.precision.upper()]
    weights = {name: value.detach().numpy() for name, value in method.parameters.items()}
    return _Learned(method.number, precision, method.result(), snapshots, method.facts(), weights, schedule, run, inputs.engine)


def _stage(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total, "")


def _views(settings: AdaptSettings) -> Views:
    return Views(1 if settings.method.startswith("zero-shot") else settings.views, settings.loop.seed)


def _encode(
    backbone: Backbone, photos: Photos, views: Views, settings: AdaptSettings, stage: str, progress: Progress
) -> Labelled:
    features = features_of(backbone, photos, views=views, strict=settings.strict, progress=_stage(progress, stage))
    paths = tuple(photos.paths[i] for i in features.kept)
    return Labelled(features, paths, np.array(photos.labels, np.int64)[features.kept])


def _provenance(settings: AdaptSettings, schedule: Schedule, photos: int) -> str:
    """One line without a clock in it: the same command must give the same bytes."""
    return (
        f"{photos} photos, {settings.shots} shots, {settings.views} views, {schedule.epochs} epochs, "
        f"batch {schedule.batch or 'all'}, lr {schedule.peak_lr:g}, seed {settings.loop.seed}"
    )


def _check_every_class(data: Dataset, train: Labelled) -> None:
    counts = np.bincount(train.labels, minlength=len(data.names))
    if empty := [name for name, count in zip(data.names, counts, strict=True) if not count]:
        raise DataError(f"no readable training photo of {', '.join(empty[:5])}: add some, or remove the class")


def _accuracy(learned: Checked, by_hand: Classifier, part: Labelled) -> Accuracy:
    scores = Scores.of(learned.probabilities, learned.labels)
    return Accuracy(scores.accuracy, Scores.of(by_hand.probabilities(part.centre), part.labels).accuracy, scores.n)


def _digest(backbone: Backbone, data: Dataset, settings: AdaptSettings, schedule: Schedule, train: Labelled) -> str:
    """Of everything that decides the result; what only decides how it is watched is left out."""
    loop = {**asdict(schedule), "seed": settings.loop.seed}
    decisive = {**asdict(settings), "loop": loop, "engine": settings.engine.name}
    facts = [backbone.manifest.fingerprint, backbone.precision, data.names, decisive]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(train.features.values.tobytes() + train.labels.tobytes())
    return digest.hexdigest()


@dataclass
class _Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self.last = now - self.last, now
