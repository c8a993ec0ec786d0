"""Learning step by step: a method, its optimiser's loop and its checkpoint. torch is imported when it begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify import Classifier
from edge_qprompt.learn.labelled import Labelled
from edge_qprompt.learn.method import Result, Takes
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.run import Run
from edge_qprompt.learn.settings import AdaptSettings, Schedule
from edge_qprompt.learn.threads import torch_threads

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Learned:
    """What is left of a method when its tower has gone from memory.

    Attributes:
        number: of the method.
        result: for a pack.
        snapshots: results by epoch, if they were wanted.
        facts: the method's own numbers.
        weights: what was learned, by name, before it was quantized.
        schedule: None of a closed form.
        run: what the loop did.
        engine: name of what computed the steps, and a note about it.
    """

    number: int
    result: Result
    snapshots: dict[int, Result] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    schedule: Schedule | None = None
    run: Run = field(default_factory=Run)
    engine: tuple[str, str] = ("", "")


def stage_of(progress: Progress, stage: str) -> Callable[[int, int], None]:
    """What tells how far a stage is."""
    return lambda done, total: progress(stage, done, total, "")


def learn_by_steps(
    backbone: Backbone,
    names: Sequence[str],
    settings: AdaptSettings,
    train: Labelled,
    by_hand: Classifier,
    progress: Progress,
    checkpoint: Path | None = None,
    *,
    resume: bool = False,
    stage: str = "learn",
) -> Learned:
    """Learn photos by the method that the settings name.

    Args:
        by_hand: the hand-written prompt with the same names.
        checkpoint: file to keep checkpoints in; None keeps none.
        resume: go on from that file.
        stage: what `progress` is told.
    """
    # only now, when the encoders have gone: torch is 200 MB
    from edge_qprompt.learn.checkpoint import CheckpointFile
    from edge_qprompt.learn.inputs import Inputs
    from edge_qprompt.learn.loop import learn
    from edge_qprompt.learn.problem import Problem, initial_context
    from edge_qprompt.learn.teacher import Teacher

    kind, teacher = METHODS[settings.method], None
    if kind.takes is Takes.TEACHER:
        templates, told = settings.method_settings.templates, stage_of(progress, "encode in fp32")
        teacher = Teacher.of(backbone, names, templates, train.paths, settings.wanted_views, told)
    if kind.takes is Takes.PIXELS:
        backbone = backbone.in_float()  # as packs that change the encoders run
    assert settings.n_ctx
    start = initial_context(backbone, settings.n_ctx, settings.loop.seed, words=settings.words, padded=kind.pads_words)
    features, labels, classes = train.features.values, train.labels, by_hand.class_features
    problem = Problem.of(backbone, names, start, features, labels, classes, settings.engine, teacher)
    method = kind(problem, settings.method_settings)
    schedule = settings.loop.over(method.schedule)
    file = CheckpointFile(checkpoint, _digest(backbone, names, settings, schedule, train), resume) if checkpoint else None

    snapshots: dict[int, Result] = {}

    def tell(epoch: int, epochs: int, loss: float) -> None:
        progress(stage, epoch, epochs, f"loss {loss:.3f}")
        if settings.snapshot_epochs and epoch % settings.snapshot_epochs == 0:
            snapshots[epoch] = method.result()

    inputs = Inputs.of(method, problem, train.paths, settings.wanted_views)
    with torch_threads(inputs.threads):
        run = learn(method, inputs.values, problem.labels, settings.loop, file, tell)
    weights = {name: value.detach().numpy() for name, value in method.parameters.items()}
    return Learned(method.number, method.result(), snapshots, method.facts(), weights, schedule, run, inputs.engine)


def _digest(backbone: Backbone, names: Sequence[str], settings: AdaptSettings, schedule: Schedule, train: Labelled) -> str:
    """Of everything that decides the result; what only decides how it is watched is left out."""
    loop = {**asdict(schedule), "seed": settings.loop.seed}
    decisive = {**asdict(settings), "loop": loop, "engine": settings.engine.name}
    facts = [backbone.manifest.fingerprint, backbone.precision, tuple(names), decisive]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(train.features.values.tobytes() + train.labels.tobytes())
    return digest.hexdigest()
