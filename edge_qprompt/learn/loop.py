"""The training loop: of every method, resumable at each epoch.

Each method has its `Schedule`; most have CoOp's (arXiv 2109.01134 and its released configuration): SGD
with momentum, one warm-up epoch, then cosine annealing by epoch. With a prompt, a step costs the text
tower and next to nothing for the photos, so by default an epoch is one step over all of them, at a
learning rate that grows with their number (Goyal et al., arXiv 1706.02677) and is four times CoOp's: as
good as CoOp's batches of 32, in a fraction of the steps (docs/results-tables.md). The order of the photos
and the choice of views are functions of seed and epoch, so a resumed run does what an uninterrupted one
would have done.
Symbols: N photos, V views, B photos a batch, D dimensions of a feature.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.learn.checkpoint import Checkpoint, CheckpointFile
from edge_qprompt.learn.method import Method
from edge_qprompt.learn.run import Run
from edge_qprompt.learn.settings import ALL, LoopSettings, Schedule

Progress = Callable[[int, int, float], None]


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
            mover.rate = mover.schedule.rate(epoch, len(features))
        batches = _batches(features, labels, schedule.batch, [settings.seed, epoch])
        run.losses.append(_epoch(method, movers, batches, run, schedule.steps(len(features))))
        progress(epoch + 1, schedule.epochs, run.losses[-1])
        if checkpoints and time.monotonic() - saved >= settings.checkpoint_seconds:
            checkpoints.write(_capture(method, movers, run))
            saved = time.monotonic()
    return run


@dataclass
class _Mover:
    """What moves one parameter; torch's optimisers as functions, since the first object of theirs loads torch's compiler: 2 s.

    Attributes:
        rate: learning rate, of this epoch.
        state: what the optimiser remembers, by torch's names.
    """

    parameter: Tensor
    schedule: Schedule
    rate: float = 0.0
    state: dict[str, Tensor] = field(default_factory=dict)

    def step(self) -> None:
        """Move it along its gradient, if it has one, and forget that."""
        gradient = self.parameter.grad
        if gradient is None:
            return
        with torch.no_grad():
            (self._adamw if self.schedule.optimiser == "adamw" else self._sgd)(gradient)
        self.parameter.grad = None

    def _sgd(self, gradient: Tensor) -> None:
        momenta = [self.state.get("momentum_buffer")]
        schedule = self.schedule
        options: dict[str, Any] = {"dampening": 0, "nesterov": False, "maximize": False, "weight_decay": schedule.weight_decay}
        sgd([self.parameter], [gradient], momenta, lr=self.rate, momentum=schedule.momentum, **options)
        if momenta[0] is not None:  # without momentum there is none
            self.state["momentum_buffer"] = momenta[0]

    def _adamw(self, gradient: Tensor) -> None:
        for name in ("exp_avg", "exp_avg_sq"):
            self.state.setdefault(name, torch.zeros_like(self.parameter))
        self.state.setdefault("step", torch.tensor(0.0))
        mean, square, step = ([self.state[name]] for name in ("exp_avg", "exp_avg_sq", "step"))
        options: dict[str, Any] = {"amsgrad": False, "maximize": False, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
        adamw(
            [self.parameter], [gradient], mean, square, [], step, lr=self.rate, weight_decay=self.schedule.weight_decay, **options
        )


def _movers(method: Method, schedule: Schedule) -> dict[str, _Mover]:
    """By the parameters' names; one with a schedule of its own has the epochs and batches of all."""
    own = {name: replace(each, epochs=schedule.epochs, batch=schedule.batch) for name, each in method.schedules.items()}
    return {name: _Mover(parameter, own.get(name, schedule)) for name, parameter in method.parameters.items()}


def _epoch(method: Method, movers: dict[str, _Mover], batches: Iterable[tuple[Tensor, Tensor]], run: Run, steps: int) -> float:
    """One pass; returns the mean loss."""
    total, seen = 0.0, 0
    for batch, batch_labels in batches:
        loss = method.loss(batch, batch_labels)
        if not math.isfinite(value := loss.item()):
            raise EdgeQPromptError(f"learning diverged in epoch {len(run.losses) + 1}, the loss is {value}: try a lower --lr")
        loss.backward()  # type: ignore[no-untyped-call]
        for mover in movers.values():
            mover.step()
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
    state = {f"{key}/{name}": value for name in method.parameters for key, value in movers[name].state.items()}
    return Checkpoint(dict(method.parameters), state, method.state(), run.steps, run.losses)


def _restore(method: Method, movers: dict[str, _Mover], found: Checkpoint) -> Run:
    for name, parameter in method.parameters.items():
        parameter.data.copy_(found.parameters[name])
    for place, value in found.optimiser.items():
        key, name = place.split("/", 1)
        movers[name].state[key] = value.clone()
    method.load(found.method)
    return Run(found.steps, list(found.losses), len(found.losses))
