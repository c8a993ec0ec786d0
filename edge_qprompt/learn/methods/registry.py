"""The methods by the name that the command line takes; each is imported when it is asked for, since names need no torch.

A method is a file with a class as `method.Method` describes it, made with a problem and the settings. One of another
package is found by its entry point in the group `edge_qprompt.methods`, and is used like those here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from edge_qprompt.errors import PromptError

if TYPE_CHECKING:
    from edge_qprompt.learn.method import Method
    from edge_qprompt.learn.problem import Problem
    from edge_qprompt.learn.settings import MethodSettings

    Factory = Callable[[Problem, MethodSettings], Method]

GROUP = "edge_qprompt.methods"
OURS = {
    "qcoop": "qcoop:QCoOp",
    "qres": "qres:QRes",
    "qcoop+qres": "qres:QCoOpQRes",
    "qkgcoop": "qkgcoop:QKgCoOp",
    "qkgcoop+qres": "qres:QKgCoOpQRes",
    "learned-qres": "learned_qres:LearnedQRes",
    "coop": "coop:CoOp",
    "kgcoop": "kgcoop:KgCoOp",
    "prograd": "prograd:ProGrad",
    "ptq-coop": "ptq_coop:PTQCoOp",
    "noise-coop": "noise_coop:NoiseCoOp",
    "cocoop": "cocoop:CoCoOp",
    "clip-adapter": "clip_adapter:ClipAdapter",
    "maple": "maple:MaPLe",
    "qmaple": "qmaple:QMaPLe",
    "clip-lora": "clip_lora:CLIPLoRA",
    "p4q": "p4q:P4Q",
    "qp4q": "p4q:QP4Q",
    "p4q-prompt": "p4q:P4QPrompt",
    "p4q-adapter": "p4q:P4QAdapter",
    "zero-shot": "zero_shot:ZeroShot",
    "zero-shot-ensemble": "zero_shot:ZeroShotEnsemble",
}
PIXELS = "pixels"  # what `Method.takes` says
TEACHER = "teacher"
OTHERS = range(128, 256)  # numbers of methods of other packages
INSIDE = frozenset({"maple", "qmaple", "clip-lora"})  # learn inside the image tower, which not every backbone allows
TOKENS = {"prograd": 16, "maple": 2, "qmaple": 2}  # learned ones, where they are not `settings.default_ctx`


class Methods(Mapping[str, "Factory"]):
    """See the module."""

    @cached_property
    def _found(self) -> dict[str, EntryPoint]:
        ours = {name: EntryPoint(name, f"edge_qprompt.learn.methods.{place}", GROUP) for name, place in OURS.items()}
        return {point.name: point for point in entry_points(group=GROUP)} | ours

    def __getitem__(self, name: str) -> Factory:
        factory: Factory = self._found[name].load()
        if name not in OURS and (number := getattr(factory, "number", None)) not in OTHERS:
            free = f"packs of other packages' methods have one from {OTHERS[0]} to {OTHERS[-1]}"
            raise PromptError(f"the method {name} has the number {number}: {free}")
        return factory

    def is_inside(self, name: str) -> bool:
        """Whether a method learns inside the image tower. Of ours, this is known without torch."""
        return name in INSIDE if name in OURS else getattr(self[name], "takes", "") == PIXELS

    def n_ctx(self, name: str) -> int | None:
        """Learned tokens of a method unless somebody says otherwise; None for `settings.default_ctx`. Likewise."""
        return TOKENS.get(name) if name in OURS else getattr(self[name], "n_ctx", None)

    def __contains__(self, name: object) -> bool:
        return name in self._found  # to load it brings torch

    def __iter__(self) -> Iterator[str]:
        return iter((*OURS, *(name for name in self._found if name not in OURS)))

    def __len__(self) -> int:
        return len(self._found)


METHODS = Methods()
