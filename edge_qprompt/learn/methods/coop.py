"""CoOp: a learned context in front of every class name. Source: Zhou et al. (arXiv 2109.01134)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edge_qprompt.learn.later import F
from edge_qprompt.learn.method import Method, Result
from edge_qprompt.learn.methods.context import Context
from edge_qprompt.learn.settings import MethodSettings

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem


class CoOp(Method):
    """Method `coop`, and what others with a context share: cross-entropy under it, and a term where they have one.

    Class attributes:
        stored: what the context is.
    """

    name, number = "coop", 1
    stored: ClassVar[type[Context]] = Context

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        self.engine = problem.engine
        self.context = self.stored(problem.start, settings)
        self.parameters = {"ctx": self.context.values}

    def classes(self) -> Tensor:
        """Class features (C, D) under the context as it is."""
        return self.problem.engine.encode(self.context())

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy under the context, and the term."""
        classes = self.classes()  # (C, D)
        loss = F.cross_entropy(self.problem.scaled(features, classes), labels)
        term = self.term(classes)
        return loss if term is None else loss + term

    def term(self, classes: Tensor) -> Tensor | None:
        """What else is minimised, of class features (C, D)."""
        return None

    def after_step(self, step: int, steps: int) -> None:
        """The context's."""
        self.context.after_step(step)

    def result(self) -> Result:
        """The context."""
        return (self.context.tensor(),), ()

    def state(self) -> dict[str, Tensor]:
        """The context's."""
        return self.context.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """The context's."""
        self.context.load(state)

    def facts(self) -> dict[str, Any]:
        """The context's."""
        return self.context.facts()
