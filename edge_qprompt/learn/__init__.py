"""Learning: photos in, a pack out. The only room of the library that imports torch, and only when something is learned.

`adapt` is the job, `AdaptSettings` what it can be told, `METHODS` the ways to learn. Below: `methods`, a file each; `towers`, the
encoders with a gradient. May import every room but `trust` and `bench`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edge_qprompt.errors import MissingExtraError
from edge_qprompt.learn.adapt import adapt
from edge_qprompt.learn.adaptation import Adaptation, Checked
from edge_qprompt.learn.candidates import AUTO, CLASS_BUDGET, LEAST_BUDGET, PROMPT, Candidate, Expected, check_options
from edge_qprompt.learn.doctor import Diagnosis, Gain, Growth, Mislabelled, Overlap, Point, Poor, Rare, Seen, Twins, diagnose
from edge_qprompt.learn.method import ClosedForm, Method, Option, Takes
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.relearn import Encoded, Relearned, check, forget, remade, rename, teach, teach_encoded, undo
from edge_qprompt.learn.settings import (
    ALL,
    COOP_LR,
    ENGINES,
    FULL_BATCH_LR,
    LEAST_CTX,
    MEMORY,
    MOST_CTX,
    AdaptSettings,
    EngineSettings,
    LoopSettings,
    MethodSettings,
    Schedule,
)
from edge_qprompt.learn.shots import Shots
from edge_qprompt.learn.state import State, state_path
from edge_qprompt.learn.threads import one_core

if TYPE_CHECKING:
    from edge_qprompt.learn.methods.coop import CoOp
    from edge_qprompt.learn.problem import Problem
    from edge_qprompt.learn.step import has_bfloat16

WITH_TORCH = {  # where the names are whose modules import torch
    "CoOp": "methods.coop",
    "Problem": "problem",
    "has_bfloat16": "step",
}

__all__ = [
    "ALL",
    "AUTO",
    "CLASS_BUDGET",
    "COOP_LR",
    "ENGINES",
    "FULL_BATCH_LR",
    "LEAST_BUDGET",
    "LEAST_CTX",
    "MEMORY",
    "METHODS",
    "MOST_CTX",
    "PROMPT",
    "AdaptSettings",
    "Adaptation",
    "Candidate",
    "Checked",
    "ClosedForm",
    "CoOp",
    "Diagnosis",
    "Encoded",
    "EngineSettings",
    "Expected",
    "Gain",
    "Growth",
    "LoopSettings",
    "Method",
    "MethodSettings",
    "Mislabelled",
    "Option",
    "Overlap",
    "Point",
    "Poor",
    "Problem",
    "Rare",
    "Relearned",
    "Schedule",
    "Seen",
    "Shots",
    "State",
    "Takes",
    "Twins",
    "adapt",
    "check",
    "check_options",
    "diagnose",
    "forget",
    "has_bfloat16",
    "one_core",
    "remade",
    "rename",
    "state_path",
    "teach",
    "teach_encoded",
    "undo",
]


def __getattr__(name: str) -> Any:
    """A name whose module imports torch, when it is asked for."""
    if name not in WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{WITH_TORCH[name]}"), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch") from error
