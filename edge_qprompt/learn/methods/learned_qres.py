"""Learned QRes: class residuals that begin in closed form and are learned through the straight-through quantizer.

Unquantized and from zero, this is TaskRes (Yu et al., arXiv 2211.10277). Symbols: C classes, D dimensions of a feature.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_qprompt.classify import bias_section, class_means
from edge_qprompt.learn.later import F, torch
from edge_qprompt.learn.method import Method, Result
from edge_qprompt.learn.methods.calibration import choose
from edge_qprompt.learn.methods.qres import ResidualOptions
from edge_qprompt.learn.methods.straight_through import StraightThrough
from edge_qprompt.learn.settings import ALL, MethodSettings, Schedule
from edge_qprompt.learn.shots import Shots
from edge_qprompt.pack import PackTensor, Role, templates_section

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem


class LearnedQRes(Method):
    """Method `learned-qres`."""

    name, number = "learned-qres", 14
    # faster is a little better among the classes that have photos, and worse where others are labels too
    schedule = Schedule(epochs=100, batch=ALL, lr=3e-4, warmup_lr=math.inf, weight_decay=0.0, optimiser="adamw")
    Options = ResidualOptions
    options: ResidualOptions

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        clusters = self.options.clusters
        features, labels, text = (each.numpy() for each in (problem.features, problem.labels, problem.by_hand))
        alpha, self._bias = choose(Shots(features, labels, text, problem.logit_scale), clusters)
        means = class_means(features.reshape(-1, text.shape[1]), np.repeat(labels, features.shape[1]), len(text))
        self._residual = torch.from_numpy(alpha * (means - text)).requires_grad_()  # (C, D)
        self._quantizer = StraightThrough(self._residual, clusters)
        self.parameters = {"residual": self._residual}

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the class features moved by the quantized residuals."""
        classes = F.normalize(self.problem.by_hand + self._quantizer(self._residual), dim=-1)  # (C, D)
        return F.cross_entropy(self.problem.scaled(features, classes), labels)

    def after_step(self, step: int, steps: int) -> None:
        """Look whether to cluster again."""
        self._quantizer.look(self._residual, step)

    def result(self) -> Result:
        """The residuals, the templates, and how much classes with a residual are held back."""
        tensor = PackTensor.quantized(Role.RESIDUAL, self._quantizer.quantize(self._residual))
        return (tensor,), (templates_section(self.settings.templates), bias_section(self._bias))

    def state(self) -> dict[str, Tensor]:
        """The quantizer's."""
        return self._quantizer.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._quantizer.load(state)

    def facts(self) -> dict[str, Any]:
        """The quantizer's."""
        return self._quantizer.facts()
