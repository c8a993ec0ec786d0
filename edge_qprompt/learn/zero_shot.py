"""Zero-shot CLIP: a hand-written template and nothing to learn. Source: CLIP (arXiv 2103.00020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edge_qprompt.errors import PromptError
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Section, Tag


class ZeroShot:
    """Method `zero-shot`.

    Args:
        problem: nothing of it.
        settings: `template`, with {} where the class name goes.
    """

    number = MethodNumber.ZERO_SHOT
    schedule = Schedule()

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        self.parameters: dict[str, Tensor] = {}
        self._template = settings.template

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """There is none."""
        raise PromptError("zero-shot has nothing to learn")

    def after_step(self, step: int) -> None:
        """Never called."""

    def result(self) -> tuple[tuple[PackTensor, ...], tuple[Section, ...]]:
        """The template."""
        return (), (Section(Tag.TEMPLATE, self._template.encode()),)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Nothing."""

    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}
