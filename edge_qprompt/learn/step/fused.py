"""Class features and the gradient of the prompt at the machine's limit: the numbers of `tower`, written out by hand.

`tower.TextTower` says what is computed; here is how, on a CPU (figures in docs/performance.md):

* forward and backward by hand, into memory that is allocated once. Weights are frozen, so a layer keeps
  only what the gradient of its input needs;
* feature-major: an activation is (features, columns), a column a token, a product weight @ x. The BLAS then
  divides its work along the large dimension;
* threads share every layer (`rank`), and sleep while they wait for each other (`team`);
* the first layer's queries, keys and values are constant but for ctx's, and its backward pass needs those
  of ctx alone; the last layer's queries and MLP are computed for EOT alone;
* attention runs over blocks of whole classes, each with the prefix before it (`chunk`);
* memory is bounded: of many chunks, the last ones keep what the backward pass needs and the others compute
  it again. Time has no step there: it goes on growing in a straight line, at a steeper angle.

Symbols: C classes, n learned tokens, W width, D dimensions of a feature, T threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edge_qprompt.learn.settings import MEMORY
from edge_qprompt.learn.step.chunk import Chunk
from edge_qprompt.learn.step.frozen import Product
from edge_qprompt.learn.step.rank import Arena, Pass, Precision, Rank
from edge_qprompt.learn.step.team import Team
from edge_qprompt.learn.towers.text import Suffixes, TextTower

Array = NDArray[np.float32]


class FusedTower:
    """ctx -> class features, for one list of class names.

    Args:
        tower: whose weights, and the readable form of what this computes.
        suffixes: the class names, made for n_ctx learned tokens.
        n_ctx: learned tokens, n.
        threads: T; as many as divide the heads are used.
        memory: bytes that may be kept between forward and backward; one chunk (up to 512 tokens) is always kept.
        product: precision of the products.
    """

    def __init__(
        self,
        tower: TextTower,
        suffixes: Suffixes,
        n_ctx: int,
        threads: int = 1,
        memory: int = MEMORY,
        product: Precision = Product,
    ) -> None:
        self.tower, self._order = tower, suffixes.order
        self._team = Team(max(t for t in range(1, max(threads, 1) + 1) if tower.config.heads % t == 0))
        self._ranks = [Rank(tower, self._team, rank, product) for rank in range(self._team.size)]
        tower.forget_copied()
        self._chunks = Chunk.cut(tower, suffixes, n_ctx)
        self._first_qkv = [[rank.first_qkv(chunk) for chunk in self._chunks] for rank in self._ranks]
        floats = max(Pass.floats(self._ranks[0], chunk) for chunk in self._chunks)
        places = min(len(self._chunks), max(1, memory // (4 * floats * self._team.size)))
        self._memory = np.empty((places, self._team.size, floats), np.float32)
        self._parts = np.empty(
            (2, self._team.size, tower.config.width * max(chunk.columns for chunk in self._chunks)), np.float32
        )
        self._resident: dict[int, list[Pass]] = {}  # by chunk: its pass on each rank
        self._last: object = None  # whose activations are kept

    @property
    def threads(self) -> int:
        """T."""
        return self._team.size

    def __call__(self, ctx: Tensor) -> Tensor:
        """Class features.

        Args:
            ctx: (n, W) learned tokens.

        Returns:
            (C, D), unit length, in the caller's order of classes, with a gradient to ctx.
        """
        pooled: Tensor = _Step.apply(ctx, self)  # type: ignore[no-untyped-call]  # (C, W)
        features = self.tower.ln_final(pooled) @ self.tower.projection
        return F.normalize(features, dim=-1)[self._order]

    def forward(self, ctx: Array, owner: object) -> Array:
        """The tower without its final norm.

        Args:
            ctx: (W, n) learned tokens with their positions.
            owner: whoever may ask for the gradient of this call.

        Returns:
            (W, C), classes sorted by length.
        """
        self._last = owner
        return np.concatenate([self._forward(i, ctx) for i in range(len(self._chunks))], axis=1)

    def backward(self, ctx: Array, grad: Array, owner: object) -> Array:
        """Gradient (W, C) of `forward(ctx, owner)` -> gradient (W, n) of ctx."""
        total = np.zeros_like(ctx)
        ends = np.cumsum([chunk.classes for chunk in self._chunks])
        stale = self._last is not owner  # another forward came in between
        self._last = owner
        for i, end in reversed(list(enumerate(ends))):
            if stale or i not in self._resident:
                self._forward(i, ctx)
            part = np.ascontiguousarray(grad[:, end - self._chunks[i].classes : end])
            total += self._team.run(lambda rank, i=i, part=part: self._resident[i][rank].backward(part))  # type: ignore[misc]
        return total

    def _forward(self, i: int, ctx: Array) -> Array:
        """One chunk (W, its classes); it takes the place of another where there are fewer places than chunks."""
        place, places = i % len(self._memory), len(self._memory)
        if i not in self._resident:
            self._resident = {j: passes for j, passes in self._resident.items() if j % places != place}
            self._resident[i] = [
                Pass(rank, self._chunks[i], qkv[i], Arena(memory), self._parts)
                for rank, qkv, memory in zip(self._ranks, self._first_qkv, self._memory[place], strict=True)
            ]
        return self._team.run(lambda rank: self._resident[i][rank].forward(ctx)).copy()


class _Step(torch.autograd.Function):
    """`FusedTower.forward` and `backward` for autograd."""

    @staticmethod
    def forward(ctx: Any, context: Tensor, tower: FusedTower) -> Tensor:
        positions = tower.tower.positions[1 : 1 + len(context)]
        ctx.moved, ctx.tower = np.ascontiguousarray((context + positions).detach().numpy().T), tower
        return torch.from_numpy(tower.forward(ctx.moved, ctx).T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = np.ascontiguousarray(grads[0].numpy().T)
        return torch.from_numpy(ctx.tower.backward(ctx.moved, grad, ctx).T), None
