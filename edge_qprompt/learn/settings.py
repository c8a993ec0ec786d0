"""What a user can say about learning. No torch: a command reads this before it loads anything heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, get_origin, get_type_hints

from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.errors import PromptError
from edge_qprompt.photos import Views
from edge_qprompt.prompts import DEFAULT_TEMPLATE

REFERENCE_BATCH = 32  # of CoOp, whose learning rate is given for it
COOP_LR = 0.002
FULL_BATCH_LR = 0.008
WARMUP_LR = 1e-5
T = TypeVar("T")
ALL = 0  # photos a step
PROMPT_SCALARS = 2048  # of the papers' prompts: 4 tokens of 512
LEAST_CTX, MOST_CTX = 4, 8  # learned tokens, unless somebody says otherwise
OPTIMISERS = ("sgd", "adamw")
MOST_SCALE = 64.0  # nothing larger was measured
ENGINES = ("auto", "float32", "bfloat16")
MEMORY = 512 << 20  # bytes
INITIAL_STD = 0.02  # of tokens that do not start from words: CoOp's


def default_ctx(width: int) -> int:
    """Learned tokens of a text tower of a width: as many scalars as the papers' 4 tokens have, in 4 to 8 tokens."""
    return min(max(PROMPT_SCALARS // width, LEAST_CTX), MOST_CTX)


@dataclass(frozen=True)
class Schedule:
    """How a method is learned where nobody says otherwise; the defaults are those of prompts.

    Attributes:
        epochs: passes over the photos; 0 keeps the start.
        batch: photos a step, one view of each; ALL is all photos, every view of them, in one step an epoch.
        lr: peak learning rate; of SGD for 32 photos a step, for more or fewer in proportion; None is CoOp's
            0.002 for a batch, 0.008 for all photos.
        warmup_lr: learning rate of the first epoch, likewise; infinity is none: the cosine begins with it.
        warmup: epochs until the cosine is reached, in equal steps; 1 goes to it after the first.
        momentum: of SGD.
        weight_decay: of the optimiser.
        optimiser: one of OPTIMISERS.
    """

    epochs: int = 200
    batch: int = ALL
    lr: float | None = None
    warmup_lr: float = WARMUP_LR
    warmup: int = 1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimiser: str = "sgd"

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 0 or self.warmup < 1 or not 0 < self.peak_lr < math.inf:
            raise ValueError(f"epochs and batch must be 0 or more, warmup 1 or more, lr above 0: {self}")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"the optimiser must be one of {OPTIMISERS}: {self}")

    @property
    def peak_lr(self) -> float:
        """`lr`, or what stands for None."""
        if self.lr is not None:
            return self.lr
        return FULL_BATCH_LR if self.batch == ALL else COOP_LR

    def steps(self, photos: int) -> int:
        """Steps in all, when there are `photos` in all."""
        return self.epochs * (1 if self.batch == ALL else -(-photos // self.batch))

    def rate(self, epoch: int, photos: int) -> float:
        """Learning rate of an epoch, from 0, when there are `photos` in all."""
        # AdamW's steps have the same length whatever the gradient's noise
        scale = min((self.batch or photos) / REFERENCE_BATCH, MOST_SCALE) if self.optimiser == "sgd" else 1.0
        if self.epochs == 1 or self.warmup_lr == math.inf:
            rise = 1.0
        elif epoch == 0:
            return scale * self.warmup_lr
        else:
            rise = min(1.0, epoch / self.warmup)
        return rise * scale * self.peak_lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


def sgd(lr: float, batch: int, epochs: int) -> Schedule:
    """The schedule of a paper that gives its learning rate for another batch than CoOp's, with CoOp's warm-up."""
    scale = REFERENCE_BATCH / batch
    return Schedule(epochs, batch, lr * scale, WARMUP_LR * scale)


@dataclass(frozen=True)
class LoopSettings:
    """What someone says about how to learn.

    Attributes:
        epochs, batch, lr, warmup_lr, warmup, momentum, weight_decay, optimiser: as of `Schedule`; None is what the method says.
        seed: order of the photos and choice of views.
        checkpoint_seconds: least time between two checkpoints.
    """

    epochs: int | None = None
    batch: int | None = None
    lr: float | None = None
    warmup_lr: float | None = None
    warmup: int | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    optimiser: str | None = None
    seed: int = 1
    checkpoint_seconds: float = 1.0

    def __post_init__(self) -> None:
        self.over(Schedule())  # which checks what is said

    def over(self, schedule: Schedule) -> Schedule:
        """A method's schedule, with what is said here in its place."""
        said = {each.name: getattr(self, each.name) for each in fields(Schedule)}
        return replace(schedule, **{name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True)
class EngineSettings:
    """How to compute a step; the result is the same up to rounding.

    Attributes:
        name: one of ENGINES.
        memory: bytes that a step may keep for its gradient; what is more is computed once more.
    """

    name: str = "auto"
    memory: int = MEMORY

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise PromptError(f"unknown engine {self.name!r}, there are {', '.join(ENGINES)}")


@dataclass(frozen=True)
class MethodSettings:
    """What the methods can be told; each takes what concerns it.

    Attributes:
        clusters: of the quantizing methods.
        templates: of the hand-written prompt; class features are the mean over them.
        seed: of the methods' own draws: noise, dropout, the first weights of a net.
        options: what only one method can be told, by name; see the `Options` of each.
    """

    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    templates: tuple[str, ...] = (DEFAULT_TEMPLATE,)
    seed: int = 1
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class AdaptSettings:
    """One adaptation.

    Attributes:
        method: a key of METHODS; "auto" is the best for these photos within the budget.
        budget: bytes that "auto" may spend on a pack; None is 100 a class, 1000 at least.
        seconds: that "auto" may spend on learning prompts as well; 0 is none, but where nothing that is learned at once fits.
        n_ctx: learned tokens, in each layer that has them; None is what the method says, or `default_ctx`.
        words: start from "a photo of a", again and again where there are more tokens; else at random.
        shots: training photos a class, at most.
        views: views of each training photo; 1 is the centre crop alone.
        strict: an unreadable photo is an error.
        provenance: note in the pack how it was learned.
        snapshot_epochs: keep what is learned every so many epochs, to draw a curve; 0 keeps the end alone.
        loop: optimiser, epochs, seed; what is left open is the method's.
        method_settings: of the method.
        engine: what computes a step.
    """

    method: str = "auto"
    budget: int | None = None
    seconds: float = 0.0
    n_ctx: int | None = None
    words: bool = True
    shots: int = 16
    views: int = 1
    strict: bool = False
    provenance: bool = False
    snapshot_epochs: int = 0
    loop: LoopSettings = field(default_factory=LoopSettings)
    method_settings: MethodSettings = field(default_factory=MethodSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)

    def __post_init__(self) -> None:
        if min(self.shots, self.views, self.budget or 1) < 1 or self.budget == 0 or self.seconds < 0:
            raise PromptError(f"shots, views and budget must be 1 or more, and seconds 0 or more: {self}")

    @property
    def wanted_views(self) -> Views:
        """Views of each training photo; where nothing is learned, the centre crop."""
        return Views(1 if self.method.startswith("zero-shot") else self.views, self.loop.seed)


def restored(facts: Mapping[str, Any]) -> AdaptSettings:
    """Settings from what `dataclasses.asdict` made of them, by way of JSON.

    Raises:
        TypeError, KeyError, ValueError: it is something else.
    """
    method = dict(facts["method_settings"])
    method |= {"clusters": _typed(ClusterSettings, method["clusters"]), "templates": tuple(method["templates"])}
    parts = {
        "loop": _typed(LoopSettings, facts["loop"]),
        "method_settings": _typed(MethodSettings, method),
        "engine": _typed(EngineSettings, facts["engine"]),
    }
    return _typed(AdaptSettings, {**facts, **parts})


def _typed(kind: type[T], facts: Mapping[str, Any]) -> T:
    """A dataclass from values by name, each of the type that its field has."""
    hints = get_type_hints(kind)
    for name, value in facts.items():
        wanted = get_origin(hints[name]) if get_origin(hints[name]) in (tuple, Mapping) else hints[name]
        number = isinstance(value, int) and isinstance(0.0, wanted)
        if not (isinstance(value, wanted) or number) or (isinstance(value, float) and not math.isfinite(value)):
            raise TypeError(f"{name} is {value!r}")
    return kind(**facts)
