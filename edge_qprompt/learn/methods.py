"""The methods by the name that the command line takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_qprompt.learn.coop import CoOp
from edge_qprompt.learn.method import Method
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.qcoop import QCoOp
from edge_qprompt.learn.zero_shot import ZeroShot
from edge_qprompt.prompts import DEFAULT_TEMPLATE
from edge_qprompt.quantizer import ClusterSettings


@dataclass(frozen=True)
class MethodSettings:
    """What the methods can be told; each takes what concerns it.

    Attributes:
        clusters: of the quantizing methods.
        template: of the hand-written prompt.
    """

    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    template: str = DEFAULT_TEMPLATE


METHODS: dict[str, Callable[[Problem, MethodSettings], Method]] = {
    "qcoop": lambda problem, settings: QCoOp(problem, settings.clusters),
    "coop": lambda problem, settings: CoOp(problem),
    "zero-shot": lambda problem, settings: ZeroShot(settings.template),
}
