"""QCoOp: CoOp through a quantizer, so that the context is learned as it will be stored.

Source: Hao et al., Quantized Prompt (arXiv 2407.10704).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edge_qprompt.learn.methods.straight_through import StraightThrough
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.learn.step import Engine
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Role, Section


class QCoOp:
    """Method `qcoop`.

    Args:
        problem: what to learn from.
        settings: `clusters`: bits, and when to cluster again.
    """

    number = MethodNumber.QCOOP
    schedule = Schedule()

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        self._problem = problem
        self.engine: Engine | None = problem.engine
        self._ctx = problem.start.clone().requires_grad_()
        self._quantizer = StraightThrough(problem.start, settings.clusters)
        self.parameters = {"ctx": self._ctx}

    def context(self) -> Tensor:
        """(n, W), quantized."""
        return self._quantizer(self._ctx)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy under the quantized context."""
        return self._problem.cross_entropy(self.context(), features, labels)

    def after_step(self, step: int, steps: int) -> None:
        """Look whether to cluster again."""
        self._quantizer.look(self._ctx, step)

    def result(self) -> tuple[tuple[PackTensor, ...], tuple[Section, ...]]:
        """Indexes and codebook."""
        return (PackTensor.quantized(Role.CTX, self._quantizer.quantize(self._ctx)),), ()

    def state(self) -> dict[str, Tensor]:
        """The quantizer's."""
        return self._quantizer.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._quantizer.load(state)

    def facts(self) -> dict[str, Any]:
        """The quantizer's."""
        return self._quantizer.facts()
