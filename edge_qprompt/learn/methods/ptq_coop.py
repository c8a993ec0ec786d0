"""PTQ-CoOp: CoOp, quantized when it is learned. The paper's ablation of training through the quantizer.

Source: Hao et al., Quantized Prompt (arXiv 2407.10704), section 5.3.
"""

from __future__ import annotations

from edge_qprompt.codebook import Clustering
from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import MethodSettings
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Role, Section


class PTQCoOp(CoOp):
    """Method `ptq-coop`.

    Args:
        problem: what to learn from.
        settings: `clusters`: bits.
    """

    number = MethodNumber.PTQ_COOP

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        self._clusters = settings.clusters

    def result(self) -> tuple[tuple[PackTensor, ...], tuple[Section, ...]]:
        """Indexes and codebook of the context as it is at the end."""
        ctx = self._ctx.detach().numpy()
        return (PackTensor.quantized(Role.CTX, Clustering.fit(ctx, self._clusters).quantize(ctx)),), ()
