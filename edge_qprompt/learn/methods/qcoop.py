"""QCoOp: CoOp through a quantizer, so that the context is learned as it will be stored.

Source: Hao et al., Quantized Prompt (arXiv 2407.10704).
"""

from __future__ import annotations

from edge_qprompt.learn.methods.context import QuantizedContext
from edge_qprompt.learn.methods.coop import CoOp


class QCoOp(CoOp):
    """Method `qcoop`."""

    name, number = "qcoop", 2
    stored = QuantizedContext
