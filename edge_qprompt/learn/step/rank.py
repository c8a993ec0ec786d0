"""One thread's part of a training step: some heads and some hidden units of every layer, for all columns.

`tower.TextTower` says what is computed. The residual stream is the same on every thread, bit for bit;
each adds to it the sum of all threads' parts, in the order of their ranks, twice a layer (the scheme of
Megatron-LM, arXiv 1909.08053, section 3). So every weight is read by one thread only.

Symbols: W width, w = W / T this rank's part of it for T threads, H its heads, M columns of a chunk, Q of
them picked for the output, n learned tokens.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from edge_qprompt.learn.step.chunk import Chunk, Windows
from edge_qprompt.learn.step.frozen import Activation, LowProduct, Norm, Product, attend, attend_backward
from edge_qprompt.learn.step.team import Team
from edge_qprompt.learn.towers.block import Block
from edge_qprompt.learn.towers.text import TextTower

Array = NDArray[np.float32]
Precision = type[Product] | type[LowProduct]


class Layer:
    """This rank's part of a block's weights: what follows a norm is a copy that takes the norm in, the rest are views."""

    def __init__(self, block: Block, heads: int, team: Team, rank: int, product: Precision) -> None:
        width = len(block.ln_1.weight)
        mine, wide = (slice(rank * n // team.size, (rank + 1) * n // team.size) for n in (width, 4 * width))
        first = rank == 0  # a bias that comes after a sum is added once
        self.activation = Activation(block.activation)
        self.ln_1 = Norm(block.ln_1.weight.numpy(), block.ln_1.bias.numpy(), block.ln_1.eps)
        self.ln_2 = Norm(block.ln_2.weight.numpy(), block.ln_2.bias.numpy(), block.ln_2.eps, self.activation.scale)
        weight = block.qkv.weight.numpy().reshape(3, width, width)[:, mine].reshape(-1, width)
        weight, bias = self.ln_1.fold(weight, block.qkv.bias.numpy().reshape(3, width)[:, mine].reshape(-1))
        own = len(weight) // 3
        for part in (weight, bias):
            part[:own] *= np.float32((width // heads) ** -0.5)  # the scale of attention, on the queries
        self.qkv = product(weight, bias)
        self.q, self.kv = product(weight[:own], bias[:own]), product(weight[own:], bias[own:])
        self.out = product(block.out.weight.numpy()[:, mine], block.out.bias.numpy() if first else None)
        self.fc = product(*self.ln_2.fold(block.fc.weight.numpy()[wide], block.fc.bias.numpy()[wide]))
        self.proj = product(block.proj.weight.numpy()[:, wide], block.proj.bias.numpy() if first else None)


class Rank:
    """See the module.

    Args:
        tower: whose weights.
        team: the threads.
        rank: which of them.
        product: precision of the products.
    """

    def __init__(self, tower: TextTower, team: Team, rank: int, product: Precision) -> None:
        config = tower.config
        self.team, self.rank = team, rank
        self.width, self.own, self.heads = config.width, config.width // team.size, config.heads // team.size
        self.layers = [Layer(block, config.heads, team, rank, product) for block in tower.blocks]

    def first_qkv(self, chunk: Chunk) -> Array:
        """Queries, keys and values of the first layer (3w, margin + M), of which ctx's have to be renewed."""
        normal, spare = np.empty_like(chunk.start), np.empty_like(chunk.start)
        qkv = np.zeros((3 * self.own, chunk.windows.margin + chunk.columns), np.float32)
        self.layers[0].ln_1.forward(chunk.start, normal, np.empty((1, chunk.columns), np.float32), spare)
        self.layers[0].qkv.forward(normal, qkv[:, chunk.windows.margin :])
        return qkv


class Arena:
    """One allocation that is handed out piece by piece; None only counts.

    Attributes:
        used: floats handed out.
    """

    def __init__(self, memory: Array | None) -> None:
        self._memory = memory
        self.used = 0

    def take(self, *shape: int) -> Array:
        """The next piece."""
        start = self.used
        self.used = start + math.prod(shape)
        if self._memory is None:
            return as_strided(np.zeros(1, np.float32), shape, (0,) * len(shape))
        return self._memory[start : self.used].reshape(shape)


class Kept:
    """What a layer keeps for its backward pass.

    Args:
        rank: for its sizes.
        chunk: the classes.
        arena: where.
        last: the last layer, which has queries and MLP for the picked columns alone.

    Attributes, with X = Q in the last layer, else M:
        normal_1, rstd_1: (W, M), (1, M), of the first norm.
        q, kv: (w, X), (2w, margin + M).
        qkv: (3w, M), both of them in one, without the margin; not in the last layer.
        weights: (H, B, R, P + K), of attention.
        normal_2, rstd_2: (W, X), (1, X), of the second norm.
        hidden: (4w, X), before the activation.
    """

    def __init__(self, rank: Rank, chunk: Chunk, arena: Arena, *, last: bool) -> None:
        full, own = chunk.columns, rank.own
        columns = len(chunk.picked) if last else full
        self.normal_1, self.rstd_1 = arena.take(rank.width, full), arena.take(1, full)
        windows = chunk.last_windows if last else chunk.windows
        self.margin = windows.margin
        if last:
            self.q, self.kv = arena.take(own, columns), arena.take(2 * own, self.margin + full)
            self.kv[:, : self.margin] = 0
        else:
            self.set_qkv(arena.take(3 * own, self.margin + full))
        self.weights = arena.take(rank.heads, *windows.mask.shape)
        self.normal_2, self.rstd_2 = arena.take(rank.width, columns), arena.take(1, columns)
        self.hidden = arena.take(4 * own, columns)

    def set_qkv(self, qkv: Array) -> None:
        """Use (3w, margin + M) for queries, keys and values."""
        own = len(qkv) // 3
        qkv[:, : self.margin] = 0
        self.qkv = qkv[:, self.margin :]
        self.q, self.kv = self.qkv[:own], qkv[own:]


class Work:
    """Buffers for X columns that hold nothing from one layer to the next, but for x, the residual stream or its gradient."""

    def __init__(self, rank: Rank, columns: int, arena: Arena, margin: int = 0) -> None:
        self.columns = columns
        self.x, self.h, self.spare = (arena.take(rank.width, columns) for _ in range(3))
        self.mixed, self.wide = (arena.take(n * rank.own, columns) for n in (1, 4))
        padded = arena.take(3 * rank.own, margin + columns)
        self.dqkv = padded[:, margin:]
        self.dq, self.dkv = self.dqkv[: rank.own], padded[rank.own :]


class Pass:
    """Forward and backward of one rank over one chunk, with what it keeps in between.

    Args:
        rank: the weights.
        chunk: the classes.
        qkv: from `rank.first_qkv(chunk)`.
        arena: as large as `Pass.floats` says.
        parts: (2, T, W M at least), shared by the team: where each thread puts its part of a sum, in turns,
            so that nobody overwrites what another may still be reading.
    """

    def __init__(self, rank: Rank, chunk: Chunk, qkv: Array, arena: Arena, parts: Array) -> None:
        self._rank, self._chunk, self._parts, self._turn = rank, chunk, parts, 0
        last = len(rank.layers) - 1
        self._kept = [Kept(rank, chunk, arena, last=i == last) for i in range(last + 1)]
        self._kept[0].set_qkv(qkv)
        self._all = Work(rank, chunk.columns, arena, chunk.windows.margin)
        self._picked = Work(rank, len(chunk.picked), arena)
        n_ctx = chunk.prefix - 1
        self._ctx, self._ctx_rstd = Work(rank, n_ctx, arena), arena.take(1, n_ctx)

    @classmethod
    def floats(cls, rank: Rank, chunk: Chunk) -> int:
        """Size of the arena for a pass."""
        counter = Arena(None)
        cls(rank, chunk, Arena(None).take(3 * rank.own, chunk.windows.margin + chunk.columns), counter, np.empty(0, np.float32))
        return counter.used

    def forward(self, ctx: Array) -> Array:
        """Learned tokens with their positions (W, n) -> the last block's output at EOT (W, C), to be copied."""
        chunk, layers, work = self._chunk, self._rank.layers, self._all
        np.copyto(work.x, chunk.start)
        work.x[:, 1 : chunk.prefix] = ctx
        for layer, kept in zip(layers[:-1], self._kept, strict=False):
            if layer is layers[0]:
                self._ctx_qkv(ctx)
            else:
                layer.ln_1.forward(work.x, kept.normal_1, kept.rstd_1, work.h)
                layer.qkv.forward(kept.normal_1, kept.qkv)
            self._attend(kept, chunk.windows, work)
            self._residual(layer, kept, work)
        layer, kept, picked = layers[-1], self._kept[-1], self._picked
        layer.ln_1.forward(work.x, kept.normal_1, kept.rstd_1, work.h)
        layer.kv.forward(kept.normal_1, kept.kv[:, kept.margin :])
        np.take(kept.normal_1, chunk.picked, axis=1, out=picked.h)
        np.take(work.x, chunk.picked, axis=1, out=picked.x)
        layer.q.forward(picked.h, kept.q)
        self._attend(kept, chunk.last_windows, picked)
        self._residual(layer, kept, picked)
        return picked.x[:, : chunk.classes]

    def backward(self, grad: Array) -> Array:
        """Gradient of the output (W, C) -> that of ctx (W, n), to be copied; once after each forward."""
        chunk, layers, work, picked = self._chunk, self._rank.layers, self._all, self._picked
        picked.x.fill(0)
        picked.x[:, : chunk.classes] = grad
        layer, kept = layers[-1], self._kept[-1]
        self._residual_backward(layer, kept, picked)
        self._attend_backward(kept, chunk.last_windows, picked, work.dkv)
        part = self._part(work.columns)
        layer.kv.backward(work.dqkv[self._rank.own :], part)
        layer.q.backward(picked.dq, picked.h)
        eot = chunk.picked[: chunk.classes]
        part[:, eot] += picked.h[:, : chunk.classes]
        self._total(work)
        work.x.fill(0)
        work.x[:, eot] = picked.x[:, : chunk.classes]
        layer.ln_1.backward(work.h, kept.normal_1, kept.rstd_1, work.x, work.spare)
        for layer, kept in zip(layers[-2::-1], self._kept[-2::-1], strict=True):
            self._residual_backward(layer, kept, work)
            self._attend_backward(kept, chunk.windows, work, work.dkv)
            if layer is layers[0]:
                return self._ctx_backward()
            layer.qkv.backward(work.dqkv, self._part(work.columns))
            self._total(work)
            layer.ln_1.backward(work.h, kept.normal_1, kept.rstd_1, work.x, work.spare)
        raise AssertionError("a tower has two layers or more")

    def _ctx_qkv(self, ctx: Array) -> None:
        """Renew ctx's columns in the first layer's queries, keys and values."""
        layer, work = self._rank.layers[0], self._ctx
        layer.ln_1.forward(ctx, work.x, self._ctx_rstd, work.h)
        layer.qkv.forward(work.x, work.dqkv)
        self._kept[0].qkv[:, 1 : self._chunk.prefix] = work.dqkv

    def _ctx_backward(self) -> Array:
        """From the first layer's queries, keys and values to ctx; work.x still holds ctx's normal form."""
        layer, work, span = self._rank.layers[0], self._ctx, slice(1, self._chunk.prefix)
        np.copyto(work.dqkv, self._all.dqkv[:, span])
        layer.qkv.backward(work.dqkv, self._part(work.columns))
        self._total(work)
        grad = self._all.x[:, span].copy()
        layer.ln_1.backward(work.h, work.x, self._ctx_rstd, grad, work.spare)
        return grad

    def _residual(self, layer: Layer, kept: Kept, work: Work) -> None:
        """x += out(mixed), x += MLP(x)."""
        layer.out.forward(work.mixed, self._part(work.columns))
        self._add(work)
        layer.ln_2.forward(work.x, kept.normal_2, kept.rstd_2, work.h)
        layer.fc.forward(kept.normal_2, kept.hidden)
        layer.activation.forward(kept.hidden, work.wide)
        layer.proj.forward(work.wide, self._part(work.columns))
        self._add(work)

    def _residual_backward(self, layer: Layer, kept: Kept, work: Work) -> None:
        """From the gradient x of the output to that of what attention gave: x and mixed."""
        layer.proj.backward(work.x, work.wide)
        layer.activation.backward(work.wide, kept.hidden)
        layer.fc.backward(work.wide, self._part(work.columns))
        self._total(work)
        layer.ln_2.backward(work.h, kept.normal_2, kept.rstd_2, work.x, work.spare)
        layer.out.backward(work.x, work.mixed)

    def _attend(self, kept: Kept, windows: Windows, work: Work) -> None:
        """mixed = attention of q over kv."""
        q, kv, mixed = self._heads(kept.q)[0], self._heads(kept.kv), self._heads(work.mixed)[0]
        attend(q, kv, self._chunk.prefix, windows, kept.weights, mixed)

    def _attend_backward(self, kept: Kept, windows: Windows, work: Work, dkv: Array) -> None:
        """From the gradient of mixed to dq and dkv."""
        q, kv, mixed, dq = (self._heads(x) for x in (kept.q, kept.kv, work.mixed, work.dq))
        attend_backward(mixed[0], q[0], kv, self._chunk.prefix, windows, kept.weights, dq[0], self._heads(dkv))

    def _heads(self, x: Array) -> Array:
        """(k w, X) as (k, H, d, X)."""
        return x.reshape(-1, self._rank.heads, self._rank.own // self._rank.heads, x.shape[1])

    def _part(self, columns: int) -> Array:
        """This rank's part of the next sum, (W, columns)."""
        mine: Array = self._all_parts(columns)[self._rank.rank]
        return mine

    def _all_parts(self, columns: int) -> Array:
        flat = self._parts[self._turn, :, : self._rank.width * columns]
        parts: Array = flat.reshape(-1, self._rank.width, columns)
        return parts

    def _add(self, work: Work) -> None:
        """x += the sum of all ranks' parts."""
        for part in self._met(work):
            np.add(work.x, part, out=work.x)

    def _total(self, work: Work) -> None:
        """h = the sum of all ranks' parts."""
        np.add.reduce(self._met(work), axis=0, out=work.h)

    def _met(self, work: Work) -> Array:
        self._rank.team.meet(self._rank.rank)
        parts = self._all_parts(work.columns)
        self._turn ^= 1
        return parts
