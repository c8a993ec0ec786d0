"""P4Q: a prompt and a small adapter that give a quantized backbone its accuracy back, taught by the same one in full precision.

The prompt goes through the quantized text tower, the adapter stands behind the quantized image encoder, and what is stored of
the adapter are 8 bits a weight. A method without one of the two is there to compare with; one with QCoOp's prompt
(arXiv 2407.10704) is ours.

Source: P4Q (arXiv 2409.17634). Symbols: B photos, C classes, n learned tokens, W width, D dimensions of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edge_qprompt.codebook import Clustering, ClusterSettings
from edge_qprompt.learn.methods.clip_adapter import moved, stored
from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.methods.net import Net
from edge_qprompt.learn.methods.qcoop import QCoOp
from edge_qprompt.learn.methods.registry import TEACHER
from edge_qprompt.learn.methods.zero_shot import ZeroShot
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Role, Section

NARROWER = 4  # inside of the adapter than a feature
ADAPTER_BITS = 8
TEACHING = 1.0  # weight of the teacher's term
ADAPTER = Schedule(lr=1e-3, warmup_lr=math.inf, weight_decay=1e-2, optimiser="adamw")


class P4Q:
    """Method `p4q`: a context as float16, and an adapter.

    The adapter is learned at the paper's rate, the context as all contexts are: all photos a step, 200 steps, at the loop's
    rate with momentum. The paper's rate for it (5e-4 for 20 photos, no momentum) goes with whole data sets; with a few photos a
    class, 200 steps at a hundredth of ours leave it where it was, and four times as many still go on falling.

    The paper's teacher weighs the same for all photos. Where it knows little of a task that holds back what photos teach, so
    here its term is weighted, photo by photo, with the probability that it gives the right class (ADR 13).

    Args:
        problem: what to learn from; it has a teacher.
        settings: `seed` of the adapter's first weights; `trusting`; those of the prompt.
    """

    number = MethodNumber.P4Q
    takes = TEACHER
    schedule = Schedule()
    schedules: Mapping[str, Schedule] = {"adapter_in": ADAPTER, "adapter_out": ADAPTER}
    prompt: type[CoOp | QCoOp | ZeroShot] = CoOp
    adapts = True

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        dims = problem.features.shape[-1]
        self._problem, self._teacher, self._trusting = problem, problem.taught, settings.trusting
        self._prompt = self.prompt(problem, settings)
        self._net = Net.start(dims, dims // NARROWER, dims, settings.seed) if self.adapts else None
        self.engine = self._prompt.engine
        self.parameters = dict(self._prompt.parameters)
        if self._net:
            self.parameters |= {"adapter_in": self._net.inner, "adapter_out": self._net.outer}

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, and KL(teacher || student) of the predictions, of each photo as far as the teacher is right about it.

        Args:
            features: (B, 2D), those of the quantized encoder and behind them the teacher's.
            labels: (B,).
        """
        mine, taught = features.chunk(2, dim=-1)  # (B, D) each
        logits = self._problem.scaled(moved(self._net, mine) if self._net else mine, self._classes())  # (B, C)
        wanted = self._problem.scaled(taught, self._teacher.classes).log_softmax(dim=-1)
        distance = F.kl_div(logits.log_softmax(dim=-1), wanted, reduction="none", log_target=True).sum(dim=-1)  # (B,)
        trust = 1.0 if self._trusting else wanted.gather(1, labels[:, None])[:, 0].exp()  # (B,)
        return F.cross_entropy(logits, labels) + TEACHING * (trust * distance).mean()

    def after_step(self, step: int, steps: int) -> None:
        """The prompt's."""
        self._prompt.after_step(step, steps)

    def result(self) -> tuple[tuple[PackTensor, ...], tuple[Section, ...]]:
        """The prompt, and the adapter in 8 bits."""
        tensors, sections = self._prompt.result()
        weights = stored(self._net) if self._net else {}
        return (*tensors, *(_stored_low(role, weight) for role, weight in weights.items())), sections

    def state(self) -> dict[str, Tensor]:
        """The prompt's."""
        return self._prompt.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """The prompt's."""
        self._prompt.load(state)

    def facts(self) -> dict[str, Any]:
        """The prompt's."""
        return self._prompt.facts()

    def _classes(self) -> Tensor:
        """(C, D) class features under the prompt as it is."""
        if isinstance(self._prompt, ZeroShot):
            return self._problem.by_hand
        return self._problem.engine.encode(self._prompt.context())


class QP4Q(P4Q):
    """Method `qp4q`: the context through QCoOp's quantizer, and an adapter."""

    number = MethodNumber.QP4Q
    prompt = QCoOp


class P4QPrompt(P4Q):
    """Method `p4q-prompt`: the context alone."""

    number = MethodNumber.P4Q_PROMPT
    adapts = False


class P4QAdapter(P4Q):
    """Method `p4q-adapter`: the adapter alone, under the hand-written prompt."""

    number = MethodNumber.P4Q_ADAPTER
    schedule = ADAPTER
    schedules: Mapping[str, Schedule] = {}
    prompt = ZeroShot


def _stored_low(role: Role, weight: NDArray[np.float32]) -> PackTensor:
    return PackTensor.quantized(role, Clustering.fit(weight, ClusterSettings(bits=ADAPTER_BITS)).quantize(weight))
