"""KgCoOp: CoOp that is held near the hand-written prompt. Source: Yao, Zhang and Xu (arXiv 2303.13283).

Its weight of 8 was chosen for CLIP, whose logits are cosines times 100. The cross-entropy pulls in proportion to that factor, so
for a backbone with another one the weight goes with it. The schedule is that of the released code, which keeps CoOp's learning
rate for a batch four times as large.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import sgd
from edge_qprompt.pack import Method as MethodNumber

WEIGHT = 8.0 / 100  # of the term, for a logit scale of 1


class KgCoOp(CoOp):
    """Method `kgcoop`."""

    number = MethodNumber.KGCOOP
    schedule = sgd(lr=0.002, batch=128, epochs=100)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy and the term."""
        return guided(self._problem, self.context(), features, labels)


def guided(problem: Problem, ctx: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, and WEIGHT times the logit scale times the mean of one minus the cosine to the hand-written class features.

    Args:
        problem: whose classes.
        ctx: (n, W).
        features: (B, D), unit length.
        labels: (B,).
    """
    classes = problem.engine.encode(ctx)  # (C, D)
    distance = 1 - (classes * problem.by_hand).sum(dim=1).mean()
    return F.cross_entropy(problem.scaled(features, classes), labels) + WEIGHT * problem.logit_scale * distance
