"""KgCoOp: CoOp that is held near the hand-written prompt. Source: Yao, Zhang and Xu (arXiv 2303.13283).

The schedule is that of its released code, which keeps CoOp's learning rate for a batch four times as large.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.learn.coop import CoOp
from edge_qprompt.learn.settings import sgd
from edge_qprompt.pack import Method as MethodNumber

WEIGHT = 8.0


class KgCoOp(CoOp):
    """Method `kgcoop`."""

    number = MethodNumber.KGCOOP
    schedule = sgd(lr=0.002, batch=128, epochs=100)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, and 8 times the mean of one minus the cosine to the hand-written prompt's class features."""
        classes = self._problem.engine.encode(self._ctx)  # (C, D)
        cosine = (classes * self._problem.by_hand).sum(dim=1).mean()
        return F.cross_entropy(self._problem.scaled(features, classes), labels) + WEIGHT * (1 - cosine)
