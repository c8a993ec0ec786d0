"""CLIP-Adapter: a small net on the photo's feature, mixed with the feature itself. Source: Gao et al. (arXiv 2110.04544).

As in Quantized Prompt's comparison (arXiv 2407.10704) the net has biases, is as wide inside as a feature, and has no ReLU
at its end; the hand-written prompt stays. A step costs next to nothing, so there are many: AdamW at 1e-3, as P4Q learns its
adapter (arXiv 2409.17634), since SGD at the paper's 1e-5 moves a net on features of unit length next to nowhere.

Symbols: B photos, D dimensions of a feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.learn.later import F
from edge_qprompt.learn.method import Method, Result
from edge_qprompt.learn.methods.net import LearnedNet
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import PackTensor, Role, templates_section

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem

RATIO = 0.2  # of the net's output in the mixture
WEIGHT = RATIO / (1 - RATIO)  # of it beside the whole feature, which has the same direction


@dataclass(frozen=True)
class AdapterOptions:
    """Of CLIP-Adapter.

    Attributes:
        adapter_width: of the net inside; 0 is that of a feature.
    """

    adapter_width: int = 0

    def __post_init__(self) -> None:
        if self.adapter_width < 0:
            raise ValueError(f"adapter_width is {self.adapter_width}, it must be 0 or more")


class ClipAdapter(Method):
    """Method `clip-adapter`."""

    name, number = "clip-adapter", 10
    Options = AdapterOptions
    options: AdapterOptions
    schedule = Schedule(epochs=50, batch=32, lr=1e-3, warmup_lr=math.inf, weight_decay=1e-2, optimiser="adamw")

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        dims = problem.features.shape[-1]
        self._net = LearnedNet.start(dims, self.options.adapter_width or dims, dims, settings.seed)
        self.parameters = {"adapter_in": self._net.inner, "adapter_out": self._net.outer}

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the moved features under the hand-written prompt."""
        return F.cross_entropy(self.problem.scaled(moved(self._net, features), self.problem.by_hand), labels)

    def result(self) -> Result:
        """The net as float16, the mixing ratio folded in, and the templates."""
        tensors = tuple(PackTensor.raw(role, weight) for role, weight in stored(self._net).items())
        return tensors, (templates_section(self.settings.templates),)


def moved(net: LearnedNet, features: Tensor) -> Tensor:
    """Features (B, D) mixed with what the net makes of them, unit length again."""
    return F.normalize(features + WEIGHT * net(features), dim=-1)


def stored(net: LearnedNet) -> dict[Role, NDArray[np.float32]]:
    """The net's weights as a pack has them, the mixing ratio folded in."""
    inner, outer = net.inner.detach(), WEIGHT * net.outer.detach()
    return {Role.ADAPTER_IN: inner.numpy(), Role.ADAPTER_OUT: outer.numpy()}
