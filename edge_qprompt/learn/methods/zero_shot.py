"""Zero-shot CLIP: hand-written templates and nothing to learn. Source: CLIP (arXiv 2103.00020)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.learn.method import ClosedForm, Result
from edge_qprompt.learn.settings import MethodSettings
from edge_qprompt.learn.shots import Shots
from edge_qprompt.pack import ZERO_SHOT, templates_section

GENERAL = (  # the seven that CLIP's authors found for ImageNet among 80: notebooks/Prompt_Engineering_for_ImageNet.ipynb
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


class ZeroShot(ClosedForm):
    """Method `zero-shot`: the templates of the settings, with {} where the class name goes."""

    name, number = "zero-shot", ZERO_SHOT

    def result(self) -> Result:
        """The templates."""
        return (), (templates_section(self.settings.templates),)

    @property
    def size(self) -> int:
        """As of `ClosedForm`."""
        return templates_section(self.settings.templates).size

    def left_out(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """All photos: none was learned from."""
        return (self.shots.centre @ self.shots.by_hand.T).astype(np.float64), self.shots.labels


class ZeroShotEnsemble(ZeroShot):
    """Method `zero-shot-ensemble`: the mean over templates that fit most photos. Its packs are those of `zero-shot`."""

    name = "zero-shot-ensemble"

    def __init__(self, shots: Shots, settings: MethodSettings) -> None:
        super().__init__(shots, replace(settings, templates=GENERAL))
