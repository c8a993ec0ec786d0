"""What the loop asks of a method. The next method is a file that has these, and a line in `methods`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from edge_qprompt.learn.settings import Schedule
from edge_qprompt.learn.step import Engine
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Section


class Method(Protocol):
    """One way of learning a task.

    Attributes:
        number: how the pack names it.
        schedule: how it is learned unless somebody says otherwise; may depend on the problem.
        engine: what computes its steps; None where they are too small to matter.
        parameters: what the optimiser moves, by name; empty for a method that does not learn.

    One that has `takes = "pixels"` is given views (B, 3, S, S) uint8, not normalised, where others get features; one that
    has `takes = "teacher"` is given features (B, 2D), those of the backbone in full precision behind its own. One that has
    `schedules` names parameters with a schedule of their own, of which epochs and batch are not used: they move together.
    Its class may have `n_ctx`, learned tokens unless somebody says otherwise, if they are not `settings.default_ctx`; and
    `pads_words = True`, if it starts with zeros before the words where it has more tokens (see `problem.initial_context`).
    """

    number: MethodNumber
    schedule: Schedule
    engine: Engine | None
    parameters: dict[str, Tensor]

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Scalar to minimise, for features (B, D) and labels (B,)."""

    def after_step(self, step: int, steps: int) -> None:
        """Called when the optimiser has made its `step`-th step of `steps`, from 1."""

    def result(self) -> tuple[tuple[PackTensor, ...], tuple[Section, ...]]:
        """Tensors and essential sections of the pack."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep besides the parameters."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""

    def facts(self) -> dict[str, Any]:
        """For the report, plain enough for JSON, e.g. re-clusterings."""


def schedules(method: Method) -> Mapping[str, Schedule]:
    """Those that single parameters of a method have."""
    found: Mapping[str, Schedule] = getattr(method, "schedules", {})
    return found
