"""Parts of methods: one that stands upon another, which learns a prompt below it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from edge_qprompt.errors import PromptError
from edge_qprompt.learn.method import Method, Result
from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.settings import MethodSettings
from edge_qprompt.pack import templates_section

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem


class Upon(Method):
    """A method upon a prompt: learned by the method `below`, or written by hand.

    Class attributes:
        below: the method of the prompt; None is the hand-written one, of the settings' templates.
    """

    below: ClassVar[type[CoOp] | None] = None

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        self.prompt = self.below(problem, replace(settings, options={})) if self.below else None
        if self.prompt:
            self.engine, self.parameters = self.prompt.engine, dict(self.prompt.parameters)
            self.schedule = self.prompt.schedule

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The prompt's."""
        if self.prompt is None:
            raise PromptError(f"{self.name} has nothing to learn step by step")
        return self.prompt.loss(features, labels)

    def result(self) -> Result:
        """The prompt's, or its templates."""
        return self.prompt.result() if self.prompt else ((), (templates_section(self.settings.templates),))

    def after_step(self, step: int, steps: int) -> None:
        """The prompt's."""
        if self.prompt:
            self.prompt.after_step(step, steps)

    def state(self) -> dict[str, Tensor]:
        """The prompt's."""
        return self.prompt.state() if self.prompt else {}

    def load(self, state: dict[str, Tensor]) -> None:
        """The prompt's."""
        if self.prompt:
            self.prompt.load(state)

    def facts(self) -> dict[str, Any]:
        """The prompt's."""
        return self.prompt.facts() if self.prompt else {}
