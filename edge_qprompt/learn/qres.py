"""QRes: class residuals, quantized; alone in closed form, or on top of a learned prompt. See `edge_qprompt.residual`.

What a residual is multiplied with, and how much classes with one are held back, is chosen on photos left out of the means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_qprompt.errors import PromptError
from edge_qprompt.learn.method import Method
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.qcoop import QCoOp
from edge_qprompt.learn.qkgcoop import QKgCoOp
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Role, Section, templates_section
from edge_qprompt.quantizer import Clustering, ClusterSettings, Quantized
from edge_qprompt.residual import bias_section, class_means, normalised

FOLDS = 4
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
BIASES = tuple(np.linspace(-0.2, 0.6, 81).tolist())  # in cosines

Array = NDArray[np.float32]
Labels = NDArray[np.int64]


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


def quantized(features: Array, labels: Labels, text: Array, clusters: ClusterSettings) -> Quantized:
    """Residuals (C, D) of photos (N, D) with labels (N,) over text features (C, D), quantized."""
    residual = class_means(features, labels, len(text)) - text
    return Clustering.fit(residual, clusters).quantize(residual)


def choose(
    features: NDArray[np.float32], labels: Labels, text: Array, clusters: ClusterSettings, scale: float
) -> tuple[float, float]:
    """Factor on the residuals, and what is taken from the cosines of classes with one where others have none.

    Both by cross-validation over photos; for the second, half of the classes play those without photos, then the other half.

    Args:
        features: (N, V, D), unit length; means are taken of all views, the centre crops are classified.
        labels: (N,).
        text: (C, D).
        clusters: of the residuals.
        scale: of the logits.
    """
    if np.bincount(labels).max() < 2:
        return 1.0, 0.0  # one photo a class leaves none to choose with
    hits, losses = np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS))
    joint = []
    for kept, left in _folds(labels):
        flat = features[kept].reshape(-1, text.shape[1])
        residual = quantized(flat, np.repeat(labels[kept], features.shape[1]), text, clusters).values()
        photos, wanted = features[left, 0], labels[left]
        for i, alpha in enumerate(ALPHAS):
            cosines = photos @ normalised(text + alpha * residual).T
            hits[i] += (cosines.argmax(axis=1) == wanted).sum()
            losses[i] += _cross_entropy(scale * cosines, wanted)
        joint.append((photos, wanted, residual))
    best = max(range(len(ALPHAS)), key=lambda i: (hits[i], -losses[i]))
    return ALPHAS[best], _bias(joint, text, ALPHAS[best])


def _bias(joint: list[tuple[Array, Labels, Array]], text: Array, alpha: float) -> float:
    """The bias with the best harmonic mean of the accuracies of classes with and without a residual, all of them labels."""
    hits = np.zeros((2, len(BIASES)))
    for photos, wanted, residual in joint:
        for half in (0, 1):
            seen = np.arange(len(text)) % 2 == half
            cosines = photos @ normalised(text + alpha * residual * seen[:, None]).T  # (N, C)
            for i, bias in enumerate(BIASES):
                right = (cosines - bias * seen).argmax(axis=1) == wanted
                hits[:, i] += right[seen[wanted]].sum(), right[~seen[wanted]].sum()
    harmonic = hits[0] * hits[1] / np.maximum(hits.sum(axis=0), 1)
    best = np.flatnonzero(harmonic == harmonic.max())
    return float(BIASES[best[len(best) // 2]])


def _folds(labels: Labels) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Photos to take the means of, and photos left out; each is left out once, but the only one of a class never."""
    place = np.full(len(labels), -1)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        if len(mine) > 1:
            place[mine] = np.arange(len(mine)) % FOLDS
    for fold in range(min(FOLDS, int(place.max()) + 1)):
        yield np.flatnonzero(place != fold), np.flatnonzero(place == fold)


def _cross_entropy(logits: Array, labels: Labels) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).sum())
