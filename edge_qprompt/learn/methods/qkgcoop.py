"""QKgCoOp: QCoOp with KgCoOp's term, which keeps more of what the hand-written prompt knows of new classes. Ours.

Sources: Quantized Prompt (arXiv 2407.10704) and KgCoOp (arXiv 2303.13283).
"""

from __future__ import annotations

from torch import Tensor

from edge_qprompt.learn.methods.kgcoop import guided
from edge_qprompt.learn.methods.qcoop import QCoOp
from edge_qprompt.pack import Method as MethodNumber


class QKgCoOp(QCoOp):
    """Method `qkgcoop`; the schedule is QCoOp's."""

    number = MethodNumber.QKGCOOP

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy and KgCoOp's term under the quantized context."""
        return guided(self._problem, self.context(), features, labels)
