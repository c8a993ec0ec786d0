"""How a step through the text tower is computed: in which precision, on how many threads, how much of it at a time.

float32    what `towers.text` says
bfloat16   the same with the products of the blocks in bfloat16, for processors that compute in it
auto       bfloat16 for large steps on a processor that computes in it, if a trial against float32 passes, else float32

Nothing here looks at a clock: the same command must give the same bytes. A quantized tower is always computed in float32, which
holds its integers exactly.

Symbols: C classes, n learned tokens, W width, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.learn.settings import MEMORY, EngineSettings
from edge_qprompt.learn.threads import SMALL_STEP, threads_for, torch_threads
from edge_qprompt.learn.towers.text import Suffixes, TextTower

TRIAL_STEPS = 10
LEAST_COSINE = 0.999  # of every gradient of the trial to float32's
PARTS = 4  # of a thread's memory: all but one are kept for the gradient, one is for what is computed once more

T = TypeVar("T")
Encode = Callable[[Tensor], Tensor]
Loss = Callable[[Encode, Tensor], Tensor]


@dataclass(frozen=True)
class Engine:
    """What was chosen.

    Attributes:
        name: float32 or bfloat16.
        encode: ctx (n, W) -> class features (C, D) with a gradient to ctx.
        note: one line for people: threads, and why this one.
    """

    name: str
    encode: Encode
    note: str


def choose(settings: EngineSettings, tower: TextTower, rows: Sequence[Sequence[int]], start: Tensor, loss: Loss) -> Engine:
    """The engine for a list of classes.

    Args:
        settings: what is wanted.
        tower: the weights.
        rows: token ids of each class without SOT and EOT; checked to fit by the tokenizer.
        start: (n, W), where learning begins; the trial begins there too.
        loss: of an encode function at a ctx; for the trial.

    Raises:
        EdgeQPromptError: bfloat16 is demanded of a processor that does not compute in it.
    """
    work = tower.work(rows, len(start))
    threads = threads_for(work)
    on = f"{threads} thread{'s' * (threads > 1)}"
    suffixes = tower.suffixes(rows, len(start), threads)
    exact = ParallelTower(tower, suffixes, threads, settings.memory)
    if tower.is_quantized:
        return Engine("float32", exact, f"{on}, the text tower is quantized")
    if settings.name == "float32" or (settings.name == "auto" and (work < SMALL_STEP or not has_bfloat16())):
        return Engine("float32", exact, f"float32, {on}")
    if not has_bfloat16():
        raise EdgeQPromptError("this processor does not compute in bfloat16: use --engine float32")
    low = ParallelTower(tower.in_bfloat16(), suffixes, threads, settings.memory)
    cosine = trial(exact, low, start, loss)
    found = f"least cosine {cosine:.5f} to float32's gradients over {TRIAL_STEPS} steps"
    if settings.name == "bfloat16" or cosine >= LEAST_COSINE:
        return Engine("bfloat16", low, f"bfloat16, {on}, {found}")
    return Engine("float32", exact, f"float32, {on}; bfloat16 not taken: {found}")


class ParallelTower:
    """Class features of a context: each thread has its share of the classes, and bounded memory for them.

    The threads meet twice a step and sleep while they wait, so a busy neighbour costs its share of the time and no more; torch's
    own meet in every product and spin (docs/adr/0018-step.md).

    Args:
        tower: computes the features of each share.
        suffixes: the classes; as many sequences as threads, or a multiple, make shares of one size.
        threads: how many.
        memory: bytes that may be kept for the gradient; what does not fit is computed once more. A sequence a thread always is.
    """

    def __init__(self, tower: TextTower, suffixes: Suffixes, threads: int = 1, memory: int = MEMORY) -> None:
        self._tower = tower
        count = min(threads, len(suffixes))
        cuts = [len(suffixes) * i // count for i in range(count + 1)]
        fit = max(1, memory // count // tower.kept_bytes(suffixes))  # sequences
        self._shares = [list(_parts(suffixes, *ends, fit)) for ends in pairwise(cuts)]
        self._others = ThreadPoolExecutor(count - 1, "step") if count > 1 else None

    def __call__(self, ctx: Tensor) -> Tensor:
        """(C, D), unit length, with a gradient to ctx (n, W)."""
        features: Tensor = _Features.apply(ctx, self)  # type: ignore[no-untyped-call]
        return features

    def forward(self, ctx: Tensor) -> list[list[_Piece]]:
        """The features of each share's parts."""
        return self._run([partial(self._share, ctx.detach(), share) for share in self._shares])

    def backward(self, pieces: list[list[_Piece]], grad: Tensor) -> Tensor:
        """The gradient (n, W) of the context from that of the features (C, D)."""
        sizes = [sum(len(piece.features) for piece in share) for share in pieces]
        jobs = [partial(self._gradient, share, part) for share, part in zip(pieces, torch.split(grad, sizes), strict=True)]
        return torch.stack(self._run(jobs)).sum(0)

    def _share(self, ctx: Tensor, share: list[tuple[Suffixes, bool]]) -> list[_Piece]:
        pieces = []
        for suffixes, kept in share:
            with torch.set_grad_enabled(kept):
                point = ctx.clone().requires_grad_()
                pieces.append(_Piece(suffixes, kept, point, self._tower(point, suffixes)))
        return pieces

    def _gradient(self, share: list[_Piece], grad: Tensor) -> Tensor:
        total = torch.zeros_like(share[0].ctx)
        for piece, part in zip(share, torch.split(grad, [len(piece.features) for piece in share]), strict=True):
            with torch.enable_grad():
                features = piece.features if piece.kept else self._tower(piece.ctx, piece.suffixes)
            total += torch.autograd.grad(features, piece.ctx, part, retain_graph=piece.kept)[0]
        return total

    def _run(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What each job returns, each on a thread of its own."""
        with torch_threads(1):
            others = [self._others.submit(job) for job in jobs[1:]] if self._others else []
            try:
                first = jobs[0]()
            finally:
                wait(others)
            return [first, *(other.result() for other in others)]


@dataclass(frozen=True)
class _Piece:
    """Features of some classes, and what their gradient is computed from.

    Attributes:
        suffixes: the classes.
        kept: whether the features have their graph; else they are computed once more.
        ctx: (n, W).
        features: (C, D).
    """

    suffixes: Suffixes
    kept: bool
    ctx: Tensor
    features: Tensor


class _Features(torch.autograd.Function):
    """`ParallelTower.forward` and `backward` for torch."""

    @staticmethod
    def forward(saved: Any, ctx: Tensor, tower: ParallelTower) -> Tensor:
        saved.tower, saved.pieces = tower, tower.forward(ctx)
        return torch.cat([piece.features.detach() for share in saved.pieces for piece in share])

    @staticmethod
    def backward(saved: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return saved.tower.backward(saved.pieces, grads[0]), None


def _parts(suffixes: Suffixes, start: int, end: int, fit: int) -> Iterator[tuple[Suffixes, bool]]:
    """Sequences start to end in parts, and whether a part's graph is kept, where `fit` sequences may be in memory."""
    size = end - start if end - start <= fit else max(1, fit // PARTS)
    again = 0 if end - start <= fit else -(-(end - start) // size) - max(1, fit // size - 1)
    for i, at in enumerate(range(start, end, size)):
        yield suffixes.part(at, min(at + size, end)), i >= again


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; what is emulated is slower than float32."""
    if torch.backends.cpu.get_cpu_capability().startswith(("AVX", "DEFAULT")):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def trial(float32: Encode, low: Encode, start: Tensor, loss: Loss) -> float:
    """Walk down float32's gradients; least cosine of the low gradients to them."""
    ctx, least = start.clone(), 1.0
    for _ in range(TRIAL_STEPS):
        gradients: list[Tensor] = []
        for encode in (float32, low):
            point = ctx.clone().requires_grad_()
            gradients += torch.autograd.grad(loss(encode, point), point)
        least = min(least, float(F.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0)))
        ctx -= 0.05 * ctx.norm() * gradients[0] / gradients[0].norm().clamp_min(1e-12)
    return least
