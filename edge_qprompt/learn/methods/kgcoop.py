"""KgCoOp: CoOp that is held near the hand-written prompt. Source: Yao, Zhang and Xu (arXiv 2303.13283).

Its weight of 8 was chosen for CLIP, whose logits are cosines times 100. The cross-entropy pulls in proportion to that factor, so
for a backbone with another one the weight goes with it. The schedule is that of the released code, which keeps CoOp's learning
rate for a batch four times as large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.settings import sgd

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem

WEIGHT = 8.0 / 100  # of the term, for a logit scale of 1


class KgCoOp(CoOp):
    """Method `kgcoop`."""

    name, number = "kgcoop", 3
    schedule = sgd(lr=0.002, batch=128, epochs=100)

    def term(self, classes: Tensor) -> Tensor:
        """How far class features (C, D) are from those of the hand-written prompt."""
        return distance(self.problem, classes)


def distance(problem: Problem, classes: Tensor) -> Tensor:
    """WEIGHT times the logit scale times the mean of 1 minus the cosine of class features (C, D) to the hand-written prompt's."""
    return WEIGHT * problem.logit_scale * (1 - (classes * problem.by_hand).sum(dim=1).mean())
