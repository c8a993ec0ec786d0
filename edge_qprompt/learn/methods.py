"""The methods by the name that the command line takes; each is imported when it is asked for, since names need no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_qprompt.learn.method import Method
    from edge_qprompt.learn.problem import Problem
    from edge_qprompt.learn.settings import MethodSettings


def _qcoop(problem: Problem, settings: MethodSettings) -> Method:
    from edge_qprompt.learn.qcoop import QCoOp

    return QCoOp(problem, settings.clusters)


def _coop(problem: Problem, _: MethodSettings) -> Method:
    from edge_qprompt.learn.coop import CoOp

    return CoOp(problem)


def _zero_shot(_: Problem, settings: MethodSettings) -> Method:
    from edge_qprompt.learn.zero_shot import ZeroShot

    return ZeroShot(settings.template)


METHODS: dict[str, Callable[[Problem, MethodSettings], Method]] = {"qcoop": _qcoop, "coop": _coop, "zero-shot": _zero_shot}
