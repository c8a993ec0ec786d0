"""QRes: class residuals, quantized; alone in closed form, or upon a learned prompt. `edge_qprompt.classify.residual` adds them.

Symbols: C classes, D dimensions of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.arrays import normalised
from edge_qprompt.classify import bias_section
from edge_qprompt.codebook import ClusterSettings, Quantized
from edge_qprompt.learn.later import torch
from edge_qprompt.learn.method import ClosedForm, Result
from edge_qprompt.learn.methods.calibration import choose, quantized
from edge_qprompt.learn.methods.qcoop import QCoOp
from edge_qprompt.learn.methods.qkgcoop import QKgCoOp
from edge_qprompt.learn.methods.upon import Upon
from edge_qprompt.learn.shots import Shots
from edge_qprompt.pack import PackTensor, Role, templates_section

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


def residuals(shots: Shots, text: Array, clusters: ClusterSettings, alpha: float) -> PackTensor:
    """Quantized residuals over text features (C, D), times alpha."""
    every = shots.features.reshape(-1, text.shape[1])
    residual = quantized(every, np.repeat(shots.labels, shots.features.shape[1]), text, clusters)
    return PackTensor.quantized(Role.RESIDUAL, replace(residual, codebook=alpha * residual.codebook))


class QRes(ClosedForm):
    """Method `qres`: residuals over the hand-written prompt."""

    name, number = "qres", 7
    Options = ResidualOptions
    options: ResidualOptions

    def result(self) -> Result:
        """The residuals, the templates, and how much classes with a residual are held back."""
        alpha, bias = self._chosen
        tensor = residuals(self.shots, self.shots.by_hand, self.options.clusters, alpha)
        return (tensor,), (templates_section(self.settings.templates), bias_section(bias))

    @cached_property
    def _chosen(self) -> tuple[float, float]:
        return choose(self.shots, self.options.clusters)

    @property
    def size(self) -> int:
        """As of `ClosedForm`."""
        shape, clusters = self.shots.by_hand.shape, self.options.clusters
        tensor = PackTensor.quantized(
            Role.RESIDUAL, Quantized(np.zeros(2**clusters.bits), np.zeros(shape, np.uint8), clusters.bits)
        )
        return tensor.size + templates_section(self.settings.templates).size + bias_section(0.0).size

    def left_out(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """As of `ClosedForm`; the factor on the residuals is that of the result."""
        shots, clusters = self.shots, self.options.clusters
        alpha, _ = self._chosen
        scores = [np.zeros((0, shots.classes))]
        labels = [np.zeros(0, np.int64)]
        for kept, left in shots.parts:
            every = kept.features.reshape(-1, shots.features.shape[2])
            residual = quantized(every, np.repeat(kept.labels, kept.features.shape[1]), shots.by_hand, clusters).values()
            scores.append((left.centre @ normalised(shots.by_hand + alpha * residual).T).astype(np.float64))
            labels.append(left.labels)
        return np.concatenate(scores), np.concatenate(labels)


class UponPrompt(Upon):
    """Residuals upon a learned prompt."""

    Options = ResidualOptions
    options: ResidualOptions

    def result(self) -> Result:
        """The prompt, the residuals, and how much classes with one are held back."""
        problem = self.problem
        tensors, sections = super().result()
        with torch.no_grad():
            text = np.asarray(problem.engine.encode(torch.from_numpy(tensors[0].values())).numpy(), np.float32)
        shots = Shots(problem.features.numpy(), problem.labels.numpy(), problem.by_hand.numpy(), problem.logit_scale)
        alpha, bias = choose(shots, self.options.clusters, text)
        return (*tensors, residuals(shots, text, self.options.clusters, alpha)), (*sections, bias_section(bias))


class QCoOpQRes(UponPrompt):
    """Method `qcoop+qres`: residuals over a quantized prompt."""

    name, number = "qcoop+qres", 8
    below = QCoOp


class QKgCoOpQRes(UponPrompt):
    """Method `qkgcoop+qres`: residuals over a quantized prompt that is held near the hand-written one."""

    name, number = "qkgcoop+qres", 20
    below = QKgCoOp
