"""CoOp: a learned context in front of every class name. Source: Zhou et al. (arXiv 2109.01134)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.learn.step import Engine
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Role, Section


class CoOp:
    """Method `coop`, and what others of its kind share.

    Args:
        problem: what to learn from.
        settings: nothing of them.
    """

    number: MethodNumber = MethodNumber.COOP
    schedule = Schedule()

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        self._problem = problem
        self.engine: Engine | None = problem.engine
        self._ctx = problem.start.clone().requires_grad_()
        self.parameters = {"ctx": self._ctx}

    def context(self) -> Tensor:
        """(n, W), as it is learned."""
        return self._ctx

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy under the context as it is."""
        return self._problem.cross_entropy(self.context(), features, labels)

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do."""

    def result(self) -> tuple[tuple[PackTensor, ...], tuple[Section, ...]]:
        """The context as float16."""
        return (PackTensor.raw(Role.CTX, self._ctx.detach().numpy()),), ()

    def state(self) -> dict[str, Tensor]:
        """Nothing but the parameters."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Nothing but the parameters."""

    def facts(self) -> dict[str, Any]:
        """Nothing to report."""
        return {}
