"""QRes: class residuals, quantized; alone in closed form, or upon a learned prompt. `edge_qprompt.classify.residual` adds them.

Symbols: C classes, D dimensions of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.classify import bias_section
from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.learn.later import torch
from edge_qprompt.learn.method import Result
from edge_qprompt.learn.methods.calibration import choose, quantized
from edge_qprompt.learn.methods.qcoop import QCoOp
from edge_qprompt.learn.methods.qkgcoop import QKgCoOp
from edge_qprompt.learn.methods.upon import Upon
from edge_qprompt.pack import PackTensor, Role

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ResidualOptions:
    """Of methods with class residuals.

    Attributes:
        residual_bits: b of a residual, 1 to 8.
    """

    residual_bits: int = 2

    def __post_init__(self) -> None:
        _ = self.clusters  # which checks the bits

    @property
    def clusters(self) -> ClusterSettings:
        """Of the residuals."""
        return ClusterSettings(bits=self.residual_bits)


class QRes(Upon):
    """Method `qres`: residuals over the hand-written prompt."""

    name, number = "qres", 7
    Options = ResidualOptions
    options: ResidualOptions

    def result(self) -> Result:
        """The prompt, the residuals, and how much classes with one are held back."""
        problem, clusters = self.problem, self.options.clusters
        tensors, sections = super().result()
        text = self._text(tensors)
        features, labels = problem.features.numpy(), problem.labels.numpy()
        # over the hand-written prompt: a learned one has seen the photos that are left out, and would seem to need no residual
        alpha, bias = choose(features, labels, problem.by_hand.numpy(), clusters, problem.logit_scale)
        residual = quantized(features.reshape(-1, text.shape[1]), np.repeat(labels, features.shape[1]), text, clusters)
        scaled = replace(residual, codebook=alpha * residual.codebook)
        return (*tensors, PackTensor.quantized(Role.RESIDUAL, scaled)), (*sections, bias_section(bias))

    def _text(self, tensors: tuple[PackTensor, ...]) -> Array:
        """Text features (C, D) under the prompt as it will be stored."""
        if not tensors:
            return np.asarray(self.problem.by_hand.numpy(), np.float32)
        with torch.no_grad():
            return np.asarray(self.problem.engine.encode(torch.from_numpy(tensors[0].values())).numpy(), np.float32)


class QCoOpQRes(QRes):
    """Method `qcoop+qres`: residuals over a quantized prompt."""

    name, number = "qcoop+qres", 8
    below = QCoOp


class QKgCoOpQRes(QRes):
    """Method `qkgcoop+qres`: residuals over a quantized prompt that is held near the hand-written one."""

    name, number = "qkgcoop+qres", 20
    below = QKgCoOp
