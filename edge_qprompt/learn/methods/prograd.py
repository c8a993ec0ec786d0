"""ProGrad: CoOp whose gradient never goes against the hand-written prompt's predictions.

Source: Zhu, Niu, Han, Wu and Zhang (arXiv 2205.14865), section 3.2; lambda and T are 1. As in its released code, 16 tokens begin
as zeros with the template's words last, and batch and learning rate are CoOp's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_qprompt.learn.later import F, torch
from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.settings import sgd

if TYPE_CHECKING:
    from torch import Tensor


class ProGrad(CoOp):
    """Method `prograd`."""

    name, number = "prograd", 4
    schedule = sgd(lr=0.002, batch=32, epochs=200)
    n_ctx = 16
    pads_words = True

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy's value, with ProGrad's gradient.

        Where the gradient of the cross-entropy and that of KL(hand-written || learned) point against each other, the
        former loses its part along the latter.
        """
        problem, ctx = self.problem, self.context()
        logits = problem.scaled(features, self.classes())  # (B, C)
        task = F.cross_entropy(logits, labels)
        target = F.log_softmax(problem.scaled(features, problem.by_hand), dim=1)
        general = F.kl_div(F.log_softmax(logits, dim=1), target, reduction="batchmean", log_target=True)
        (down,) = torch.autograd.grad(task, ctx, retain_graph=True)
        (keep,) = torch.autograd.grad(general, ctx)
        along = (down * keep).sum()
        if along < 0:
            down = down - along / (keep * keep).sum() * keep
        carrier = (ctx * down).sum()  # a function whose gradient is the one wanted
        return task.detach() + carrier - carrier.detach()
