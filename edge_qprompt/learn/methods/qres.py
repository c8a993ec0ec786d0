"""QRes: class residuals, quantized; alone in closed form, or on top of a learned prompt. See `edge_qprompt.classify.residual`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_qprompt.classify import bias_section
from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.errors import PromptError
from edge_qprompt.learn.method import Method
from edge_qprompt.learn.methods.calibration import choose, quantized
from edge_qprompt.learn.methods.qcoop import QCoOp
from edge_qprompt.learn.methods.qkgcoop import QKgCoOp
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Role, Section, templates_section

Array = NDArray[np.float32]


class QRes:
    """Method `qres`.

    Args:
        problem: what to learn from.
        settings: `residual_bits`; `templates` of the text features.
        base: a method that learns a prompt first; without it, the hand-written prompt stands below the residuals.
    """

    number = MethodNumber.QRES

    def __init__(self, problem: Problem, settings: MethodSettings, base: Method | None = None) -> None:
        self._problem, self._base, self._templates = problem, base, settings.templates
        self._clusters = ClusterSettings(bits=settings.residual_bits)
        self.parameters: dict[str, Tensor] = base.parameters if base else {}
        self.engine = base.engine if base else None
        self.schedule = base.schedule if base else Schedule()

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The prompt's."""
        if self._base is None:
            raise PromptError("qres has nothing to learn step by step")
        return self._base.loss(features, labels)

    def after_step(self, step: int, steps: int) -> None:
        """The prompt's."""
        if self._base:
            self._base.after_step(step, steps)

    def result(self) -> tuple[tuple[PackTensor, ...], tuple[Section, ...]]:
        """The prompt, the residuals, and how much classes with one are held back."""
        tensors, sections = self._base.result() if self._base else ((), (templates_section(self._templates),))
        text = self._text(tensors)
        features, labels = self._problem.features.numpy(), self._problem.labels.numpy()
        # over the hand-written prompt: a learned one has seen the photos that are left out, and would seem to need no residual
        alpha, bias = choose(features, labels, self._problem.by_hand.numpy(), self._clusters, self._problem.logit_scale)
        residual = quantized(features.reshape(-1, text.shape[1]), np.repeat(labels, features.shape[1]), text, self._clusters)
        scaled = replace(residual, codebook=alpha * residual.codebook)
        return (*tensors, PackTensor.quantized(Role.RESIDUAL, scaled)), (*sections, bias_section(bias))

    def state(self) -> dict[str, Tensor]:
        """The prompt's."""
        return self._base.state() if self._base else {}

    def load(self, state: dict[str, Tensor]) -> None:
        """The prompt's."""
        if self._base:
            self._base.load(state)

    def facts(self) -> dict[str, Any]:
        """The prompt's."""
        return self._base.facts() if self._base else {}

    def _text(self, tensors: tuple[PackTensor, ...]) -> Array:
        """Text features (C, D) under the prompt as it will be stored."""
        for tensor in tensors:
            if tensor.role == Role.CTX:
                with torch.no_grad():
                    return np.asarray(self._problem.engine.encode(torch.from_numpy(tensor.values())).numpy(), np.float32)
        return np.asarray(self._problem.by_hand.numpy(), np.float32)


class QCoOpQRes(QRes):
    """Method `qcoop+qres`: residuals over a quantized prompt."""

    number = MethodNumber.QCOOP_PLUS_QRES

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings, QCoOp(problem, settings))


class QKgCoOpQRes(QRes):
    """Method `qkgcoop+qres`: residuals over a quantized prompt that is held near the hand-written one."""

    number = MethodNumber.QKGCOOP_PLUS_QRES

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings, QKgCoOp(problem, settings))
