"""Zero-shot CLIP: hand-written templates and nothing to learn. Source: CLIP (arXiv 2103.00020)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from edge_qprompt.errors import PromptError
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Section, templates_section

GENERAL = (  # the seven that CLIP's authors found for ImageNet among 80: notebooks/Prompt_Engineering_for_ImageNet.ipynb
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


class ZeroShot:
    """Method `zero-shot`.

    Args:
        problem: nothing of it.
        settings: `templates`, with {} where the class name goes.
    """

    number = MethodNumber.ZERO_SHOT
    schedule = Schedule()
    engine = None

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        self.parameters: dict[str, Tensor] = {}
        self._templates = settings.templates

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """There is none."""
        raise PromptError("zero-shot has nothing to learn")

    def after_step(self, step: int, steps: int) -> None:
        """Never called."""

    def result(self) -> tuple[tuple[PackTensor, ...], tuple[Section, ...]]:
        """The templates."""
        return (), (templates_section(self._templates),)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Nothing."""

    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class ZeroShotEnsemble(ZeroShot):
    """Method `zero-shot-ensemble`: the mean over templates that fit most photos.

    Args:
        problem, settings: nothing of them.
    """

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, replace(settings, templates=GENERAL))
