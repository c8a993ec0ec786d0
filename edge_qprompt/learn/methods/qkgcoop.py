"""QKgCoOp: QCoOp with KgCoOp's term, which keeps more of what the hand-written prompt knows of new classes. Ours.

Sources: Quantized Prompt (arXiv 2407.10704) and KgCoOp (arXiv 2303.13283).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_qprompt.learn.methods.kgcoop import distance
from edge_qprompt.learn.methods.qcoop import QCoOp

if TYPE_CHECKING:
    from torch import Tensor


class QKgCoOp(QCoOp):
    """Method `qkgcoop`; the schedule is QCoOp's."""

    name, number = "qkgcoop", 19

    def term(self, classes: Tensor) -> Tensor:
        """KgCoOp's."""
        return distance(self.problem, classes)
