"""CoCoOp: a learned context that a small net moves for each photo. Source: Zhou et al. (arXiv 2203.05557).

Symbols: B photos, W width of the text tower, D dimensions of a feature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_qprompt.learn.later import F, torch
from edge_qprompt.learn.method import Result
from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.methods.net import LearnedNet
from edge_qprompt.learn.settings import MethodSettings, sgd
from edge_qprompt.pack import PackTensor, Role

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem

BOTTLENECK = 16  # how many times narrower than a feature the net is inside


class CoCoOp(CoOp):
    """Method `cocoop`: each photo has class features of its own, and costs a pass of the text tower."""

    name, number = "cocoop", 9
    schedule = sgd(lr=0.002, batch=1, epochs=10)

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        dims, width = problem.features.shape[-1], problem.start.shape[1]
        self._net = LearnedNet.start(dims, max(1, dims // BOTTLENECK), width, settings.seed)
        self.parameters |= {"meta_in": self._net.inner, "meta_out": self._net.outer}

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, each photo under the context moved by the net's answer to it."""
        shifts = self._net(features)  # (B, W)
        pairs = zip(features, shifts, strict=True)
        logits = [self.problem.logits(self.context() + shift, feature[None])[0] for feature, shift in pairs]
        return F.cross_entropy(torch.stack(logits), labels)

    def result(self) -> Result:
        """The context and the net as float16."""
        ctx, sections = super().result()
        roles = {Role.META_IN: self._net.inner, Role.META_OUT: self._net.outer}
        return (*ctx, *(PackTensor.raw(role, weight.detach().numpy()) for role, weight in roles.items())), sections
