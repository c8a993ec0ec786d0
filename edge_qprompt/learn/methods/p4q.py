"""P4Q: a prompt and a small adapter that give a quantized backbone its accuracy back, taught by the same one in full precision.

The prompt goes through the quantized text tower, the adapter stands behind the quantized image encoder, and what is stored of
the adapter are 8 bits a weight. A method without one of the two is there to compare with; one with QCoOp's prompt
(arXiv 2407.10704) is ours.

Source: P4Q (arXiv 2409.17634). Symbols: B photos, C classes, n learned tokens, W width, D dimensions of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.codebook import Clustering, ClusterSettings
from edge_qprompt.learn.later import F
from edge_qprompt.learn.method import Result, Takes
from edge_qprompt.learn.methods.clip_adapter import moved, stored
from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.methods.net import LearnedNet
from edge_qprompt.learn.methods.qcoop import QCoOp
from edge_qprompt.learn.methods.upon import Upon
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import PackTensor, Role

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem

NARROWER = 4  # inside of the adapter than a feature
ADAPTER_BITS = 8
TEACHING = 1.0  # weight of the teacher's term
ADAPTER = Schedule(lr=1e-3, warmup_lr=math.inf, weight_decay=1e-2, optimiser="adamw")


@dataclass(frozen=True)
class TeacherOptions:
    """Of P4Q's kind.

    Attributes:
        trusting: the teacher weighs the same for all photos, as in the paper, and not as far as it is right.
    """

    trusting: bool = False


class P4Q(Upon):
    """Method `p4q`: a context as float16, and an adapter.

    The adapter is learned at the paper's rate, the context as all contexts are: all photos a step, 200 steps, at the loop's
    rate with momentum. The paper's rate for it (5e-4 for 20 photos, no momentum) goes with whole data sets; with a few photos a
    class, 200 steps at a hundredth of ours leave it where it was, and four times as many still go on falling.

    The paper's teacher weighs the same for all photos. Where it knows little of a task that holds back what photos teach, so
    here its term is weighted, photo by photo, with the probability that it gives the right class (ADR 13).

    Class attributes:
        adapts: whether there is an adapter.
    """

    name, number = "p4q", 15
    takes = Takes.TEACHER
    schedules: Mapping[str, Schedule] = {"adapter_in": ADAPTER, "adapter_out": ADAPTER}
    below: ClassVar[type[CoOp] | None] = CoOp
    adapts = True
    Options = TeacherOptions
    options: TeacherOptions

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        dims = problem.features.shape[-1]
        self._teacher = problem.taught
        self._net = LearnedNet.start(dims, dims // NARROWER, dims, settings.seed) if self.adapts else None
        if self._net:
            self.parameters |= {"adapter_in": self._net.inner, "adapter_out": self._net.outer}

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, and KL(teacher || student) of the predictions, of each photo as far as the teacher is right about it.

        Args:
            features: (B, 2D), those of the quantized encoder and behind them the teacher's.
            labels: (B,).
        """
        mine, taught = features.chunk(2, dim=-1)  # (B, D) each
        logits = self.problem.scaled(moved(self._net, mine) if self._net else mine, self._classes())  # (B, C)
        wanted = self.problem.scaled(taught, self._teacher.classes).log_softmax(dim=-1)
        distance = F.kl_div(logits.log_softmax(dim=-1), wanted, reduction="none", log_target=True).sum(dim=-1)  # (B,)
        trust = 1.0 if self.options.trusting else wanted.gather(1, labels[:, None])[:, 0].exp()  # (B,)
        return F.cross_entropy(logits, labels) + TEACHING * (trust * distance).mean()

    def result(self) -> Result:
        """The prompt, and the adapter in 8 bits."""
        tensors, sections = super().result()
        weights = stored(self._net) if self._net else {}
        return (*tensors, *(_stored_low(role, weight) for role, weight in weights.items())), sections

    def _classes(self) -> Tensor:
        """(C, D) class features under the prompt as it is."""
        return self.prompt.classes() if self.prompt else self.problem.by_hand


class QP4Q(P4Q):
    """Method `qp4q`: the context through QCoOp's quantizer, and an adapter."""

    name, number = "qp4q", 16
    below = QCoOp


class P4QPrompt(P4Q):
    """Method `p4q-prompt`: the context alone."""

    name, number = "p4q-prompt", 17
    adapts = False


class P4QAdapter(P4Q):
    """Method `p4q-adapter`: the adapter alone, under the hand-written prompt."""

    name, number = "p4q-adapter", 18
    schedule = ADAPTER
    schedules: Mapping[str, Schedule] = {}
    below = None


def _stored_low(role: Role, weight: NDArray[np.float32]) -> PackTensor:
    return PackTensor.quantized(role, Clustering.fit(weight, ClusterSettings(bits=ADAPTER_BITS)).quantize(weight))
