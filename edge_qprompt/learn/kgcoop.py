"""KgCoOp: CoOp that is held near the hand-written prompt. Source: Yao, Zhang and Xu (arXiv 2303.13283)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.learn.coop import CoOp
from edge_qprompt.pack import Method as MethodNumber

WEIGHT = 8.0


class KgCoOp(CoOp):
    """Method `kgcoop`."""

    number = MethodNumber.KGCOOP

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, and 8 times the mean of one minus the cosine to the hand-written prompt's class features."""
        classes = self._problem.engine.encode(self._ctx)  # (C, D)
        cosine = (classes * self._problem.by_hand).sum(dim=1).mean()
        return F.cross_entropy(self._problem.scaled(features, classes), labels) + WEIGHT * (1 - cosine)
