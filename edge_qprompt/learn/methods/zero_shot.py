"""Zero-shot CLIP: hand-written templates and nothing to learn. Source: CLIP (arXiv 2103.00020)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edge_qprompt.errors import PromptError
from edge_qprompt.learn.method import Method, Result
from edge_qprompt.learn.settings import MethodSettings
from edge_qprompt.pack import ZERO_SHOT, templates_section

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem

GENERAL = (  # the seven that CLIP's authors found for ImageNet among 80: notebooks/Prompt_Engineering_for_ImageNet.ipynb
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


class ZeroShot(Method):
    """Method `zero-shot`: the templates of the settings, with {} where the class name goes."""

    name, number = "zero-shot", ZERO_SHOT

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """There is none."""
        raise PromptError(f"{self.name} has nothing to learn")

    def result(self) -> Result:
        """The templates."""
        return (), (templates_section(self.settings.templates),)


class ZeroShotEnsemble(ZeroShot):
    """Method `zero-shot-ensemble`: the mean over templates that fit most photos. Its packs are those of `zero-shot`."""

    name = "zero-shot-ensemble"

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, replace(settings, templates=GENERAL))
