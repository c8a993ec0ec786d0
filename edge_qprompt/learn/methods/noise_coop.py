"""Noise-CoOp: CoOp with Gaussian noise on the context in each step, as quantization is a kind of noise.

Source: Hao et al., Quantized Prompt (arXiv 2407.10704), section 3.2 and figure 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import MethodSettings
from edge_qprompt.pack import Method as MethodNumber


class NoiseCoOp(CoOp):
    """Method `noise-coop`; what is stored has no noise.

    Args:
        problem: what to learn from.
        settings: `noise_std`, `seed`.
    """

    number = MethodNumber.NOISE_COOP

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        self._std, self._draws = settings.noise_std, torch.Generator().manual_seed(settings.seed)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy under the context and fresh noise."""
        noise = torch.randn(self._ctx.shape, generator=self._draws)
        return self._problem.cross_entropy(self._ctx + self._std * noise, features, labels)

    def state(self) -> dict[str, Tensor]:
        """Where the noise is."""
        return {"draws": self._draws.get_state()}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._draws.set_state(state["draws"])
