"""What a method is: a class that says what it takes and how it is learned, and has a loss and a result.

A new one is a file in `methods/`, or a package of its own with an entry point in the group `edge_qprompt.methods`:

    class Mine(Method):
        name, number = "mine", 200

        def loss(self, features, labels): ...
        def result(self): ...

Symbols: B photos, D dimensions of a feature, S pixels a side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.errors import PromptError
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import PackTensor, Section

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem
    from edge_qprompt.learn.shots import Shots
    from edge_qprompt.learn.step import Engine

Result = tuple[tuple[PackTensor, ...], tuple[Section, ...]]  # tensors and essential sections of a pack
Option = bool | int | float | str


class Takes(StrEnum):
    """What a method's loss is given of B photos."""

    FEATURES = "features"  # (B, D)
    TEACHER = "teacher"  # (B, 2D): those of the backbone in full precision behind its own
    PIXELS = "pixels"  # views (B, 3, S, S) uint8, not normalised: it learns inside the image tower


@dataclass(frozen=True)
class NoOptions:
    """Of a method that has none of its own."""


class Method(ABC):
    """One way of learning a task.

    Class attributes say what is known before anything is loaded; a file of a method must not need torch for them (`later`):

        name: as the command line takes it.
        number: as packs have it: below 128 those here, from 128 to 255 others'.
        takes: what `loss` is given.
        n_ctx: learned tokens unless somebody says otherwise; None is `settings.default_ctx`.
        pads_words: begin with zeros before the words where there are more tokens (`problem.initial_context`).
        Options: a frozen dataclass of bool, int, float and str with defaults: what only this method can be told; it raises a
            ValueError about values that cannot be.

    Attributes, which an instance may set for itself:
        schedule: how it is learned unless somebody says otherwise.
        schedules: of parameters with a schedule of their own, whose epochs and batch are not used: all move together.
        parameters: what the optimiser moves, by name; empty for a method that does not learn.
        engine: what computes its steps; None where they are too small to matter.

    Args:
        problem: what to learn from.
        settings: what all methods can be told, and options of this one.

    Raises:
        PromptError: an option that it does not have, or one of another type.
    """

    name: ClassVar[str]
    number: ClassVar[int]
    takes: ClassVar[Takes] = Takes.FEATURES
    n_ctx: ClassVar[int | None] = None
    pads_words: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions
    schedule: Schedule = Schedule()
    schedules: Mapping[str, Schedule] = MappingProxyType({})
    engine: Engine | None = None

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        self.problem, self.settings = problem, settings
        self.options: Any = self.read_options(settings.options)
        self.parameters: dict[str, Tensor] = {}

    @abstractmethod
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Scalar to minimise, for what the method takes of B photos, and their labels (B,)."""

    @abstractmethod
    def result(self) -> Result:
        """Tensors and essential sections of the pack."""

    def after_step(self, step: int, steps: int) -> None:  # noqa: B027  most have nothing to do
        """Called when the optimiser has made its `step`-th step of `steps`, from 1."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep besides the parameters."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Take over what `state` gave."""

    def facts(self) -> dict[str, Any]:
        """For the report, plain enough for JSON, e.g. re-clusterings."""
        return {}

    @classmethod
    def read_options(cls, given: Mapping[str, Option]) -> Any:
        """The method's `Options` with what was given in its place; texts are read as the option's type.

        Raises:
            PromptError: see the class; or a value that `Options` refuses with a ValueError.
        """
        defaults = cls.Options()
        known = {each.name: getattr(defaults, each.name) for each in fields(defaults)}
        if unknown := sorted(set(given) - set(known)):
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise PromptError(f"the method {cls.name} has no option {unknown[0]}: {has}")
        values = {name: _as(known[name], value, f"{cls.name}'s {name}") for name, value in given.items()}
        try:
            return cls.Options(**values)
        except ValueError as error:
            raise PromptError(f"the method {cls.name}: {error}") from error


class ClosedForm(Method):
    """A method that computes its result at once, with numpy alone.

    Attributes:
        shots: what it learns from, in place of a problem.
    """

    def __init__(self, shots: Shots, settings: MethodSettings) -> None:
        self.shots, self.settings = shots, settings
        self.options = self.read_options(settings.options)
        self.parameters = {}

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of what `result` gives, known before it is made."""

    @abstractmethod
    def left_out(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """What the method says of photos that it has not learned from: scores (M, C) of those that can be left out, and their
        labels (M,)."""

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """There is none."""
        raise PromptError(f"{self.name} has nothing to learn step by step")


def _as(default: Option, value: Option, what: str) -> Option:
    """A value of the default's type."""
    kind = type(default)
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        if kind is not bool and isinstance(value, str | int | float) and not isinstance(value, bool):
            converted: Option = kind(value)
            if kind is not int or float(value) == converted:
                return converted
    except (ValueError, OverflowError):
        pass
    if type(value) is not kind:
        raise PromptError(f"{what} is {value!r}, wanted {kind.__name__} like {default!r}")
    return value
