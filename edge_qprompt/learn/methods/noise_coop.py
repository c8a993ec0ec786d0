"""Noise-CoOp: CoOp with Gaussian noise on the context in each step, as quantization is a kind of noise.

Source: Hao et al., Quantized Prompt (arXiv 2407.10704), section 3.2 and figure 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_qprompt.learn.later import torch
from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.settings import MethodSettings

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem


@dataclass(frozen=True)
class NoiseOptions:
    """Of Noise-CoOp.

    Attributes:
        noise_std: of the noise, in the units of the token vectors.
    """

    noise_std: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.noise_std < math.inf:
            raise ValueError(f"noise_std is {self.noise_std}, it must be 0 or more, and finite")


class NoiseCoOp(CoOp):
    """Method `noise-coop`; what is stored has no noise."""

    name, number = "noise-coop", 6
    Options = NoiseOptions
    options: NoiseOptions

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        self._draws = torch.Generator().manual_seed(settings.seed)

    def classes(self) -> Tensor:
        """Class features (C, D) under the context and fresh noise."""
        ctx = self.context()
        return self.problem.engine.encode(ctx + self.options.noise_std * torch.randn(ctx.shape, generator=self._draws))

    def state(self) -> dict[str, Tensor]:
        """Where the noise is."""
        return {"draws": self._draws.get_state()}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._draws.set_state(state["draws"])
