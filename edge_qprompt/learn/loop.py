"""The training loop: of every method, resumable at each epoch.

Each method has its `Schedule`; most have CoOp's (arXiv 2109.01134 and its released configuration): SGD
with momentum, one warm-up epoch, then cosine annealing by epoch. With a prompt, a step costs the text
tower and next to nothing for the photos, so by default an epoch is one step over all of them, at a
learning rate that grows with their number (Goyal et al., arXiv 1706.02677) and is four times CoOp's: as
good as CoOp's batches of 32, in a fraction of the steps (docs/results.md). The order of the photos
and the choice of views are functions of seed and epoch, so a resumed run does what an uninterrupted one
would have done.
Symbols: N photos, V views, B photos a batch, D dimensions of a feature.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.learn.checkpoint import Checkpoint, CheckpointFile
from edge_qprompt.learn.method import Method, schedules
from edge_qprompt.learn.settings import ALL, LoopSettings, Schedule

Progress = Callable[[int, int, float], None]


@dataclass
class Run:
    """What the loop did.

    Attributes:
        steps: optimiser steps, those before a resume included.
        losses: mean loss of each epoch.
        resumed_at: epoch at which a checkpoint was taken up, or None.
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    resumed_at: int | None = None


def learn(
    method: Method,
    features: Tensor,
    labels: Tensor,
    settings: LoopSettings,
    checkpoints: CheckpointFile | None = None,
    progress: Progress = lambda epoch, epochs, loss: None,
) -> Run:
    """Train `method` in place.

    Args:
        method: what to train.
        features: (N, V, D) float32.
        labels: (N,) int64.
        settings: how, where it is not the method's schedule.
        checkpoints: where to resume from and keep checkpoints; None keeps none.
        progress: called after each epoch with epochs done, epochs in all and the mean loss.

    Raises:
        EdgeQPromptError: the loss stopped being a number.
        CheckpointError: the checkpoint is damaged or of another run.
    """
    run = Run()
    if not method.parameters:
        return run
    schedule = settings.over(method.schedule)
    movers = _movers(method, schedule)
    if checkpoints and (found := checkpoints.read()):
        run = _restore(method, movers, found)
    saved = time.monotonic()
    for epoch in range(len(run.losses), schedule.epochs):
        for mover in movers.values():
            mover.set_rate(epoch, len(features))
        batches = _batches(features, labels, schedule.batch, [settings.seed, epoch])
        run.losses.append(_epoch(method, movers, batches, run, schedule.steps(len(features))))
        progress(epoch + 1, schedule.epochs, run.losses[-1])
        if checkpoints and time.monotonic() - saved >= settings.checkpoint_seconds:
            checkpoints.write(_capture(method, movers, run))
            saved = time.monotonic()
    return run


@dataclass(frozen=True)
class _Mover:
    """What moves one parameter."""

    schedule: Schedule
    optimiser: Optimizer

    @classmethod
    def of(cls, parameter: Tensor, schedule: Schedule) -> _Mover:
        lr, decay = schedule.peak_lr, schedule.weight_decay
        if schedule.optimiser == "adamw":
            return cls(schedule, torch.optim.AdamW([parameter], lr, weight_decay=decay))
        return cls(schedule, torch.optim.SGD([parameter], lr, schedule.momentum, weight_decay=decay))

    def set_rate(self, epoch: int, photos: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(epoch, photos)


def _movers(method: Method, schedule: Schedule) -> dict[str, _Mover]:
    """By the parameters' names; one with a schedule of its own has the epochs and batches of all."""
    own = {name: replace(each, epochs=schedule.epochs, batch=schedule.batch) for name, each in schedules(method).items()}
    return {name: _Mover.of(parameter, own.get(name, schedule)) for name, parameter in method.parameters.items()}


def _epoch(method: Method, movers: dict[str, _Mover], batches: Iterable[tuple[Tensor, Tensor]], run: Run, steps: int) -> float:
    """One pass; returns the mean loss."""
    total, seen = 0.0, 0
    for batch, batch_labels in batches:
        loss = method.loss(batch, batch_labels)
        if not math.isfinite(value := loss.item()):
            raise EdgeQPromptError(f"learning diverged in epoch {len(run.losses) + 1}, the loss is {value}: try a lower --lr")
        for mover in movers.values():
            mover.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for mover in movers.values():
            mover.optimiser.step()
        run.steps += 1
        method.after_step(run.steps, steps)
        total += value * len(batch_labels)
        seen += len(batch_labels)
    return total / seen


def _batches(features: Tensor, labels: Tensor, size: int, seed: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Features (B, D) and labels (B,) of each step of an epoch."""
    n, views = features.shape[:2]
    if size == ALL:
        yield features.flatten(0, 1), labels.repeat_interleave(views)
        return
    rng = np.random.default_rng(seed)
    order, view = torch.from_numpy(rng.permutation(n)), torch.from_numpy(rng.integers(views, size=n))
    for start in range(0, n, size):
        rows = order[start : start + size]
        yield features[rows, view[rows]], labels[rows]


def _capture(method: Method, movers: dict[str, _Mover], run: Run) -> Checkpoint:
    state = {
        f"{key}/{name}": value
        for name, parameter in method.parameters.items()
        for key, value in movers[name].optimiser.state[parameter].items()
        if isinstance(value, Tensor)  # SGD without momentum keeps a None
    }
    return Checkpoint(dict(method.parameters), state, method.state(), run.steps, run.losses)


def _restore(method: Method, movers: dict[str, _Mover], found: Checkpoint) -> Run:
    for name, parameter in method.parameters.items():
        parameter.data.copy_(found.parameters[name])
    for place, value in found.optimiser.items():
        key, name = place.split("/", 1)
        movers[name].optimiser.state[method.parameters[name]][key] = value.clone()
    method.load(found.method)
    return Run(found.steps, list(found.losses), len(found.losses))
