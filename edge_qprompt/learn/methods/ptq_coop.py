"""PTQ-CoOp: CoOp, quantized when it is learned. The paper's ablation of training through the quantizer.

Source: Hao et al., Quantized Prompt (arXiv 2407.10704), section 5.3.
"""

from __future__ import annotations

from edge_qprompt.learn.methods.context import RoundedContext
from edge_qprompt.learn.methods.coop import CoOp


class PTQCoOp(CoOp):
    """Method `ptq-coop`."""

    name, number = "ptq-coop", 5
    stored = RoundedContext
