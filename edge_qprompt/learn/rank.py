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
from numpy.typing import NDArray

from edge_qprompt.learn.chunk import Chunk
from edge_qprompt.learn.frozen import Activation, LowProduct, Norm, Product, attend, attend_backward
from edge_qprompt.learn.team import Team
from edge_qprompt.learn.tower import Block, TextTower

Array = NDArray[np.float32]
Precision = type[Product] | type[LowProduct]


class Layer:
    """This rank's part of a block's weights; views of them where that is possible."""

    def __init__(self, block: Block, heads: int, team: Team, rank: int, product: Precision) -> None:
        width = len(block.ln_1.weight)
        mine, wide = (slice(rank * n // team.size, (rank + 1) * n // team.size) for n in (width, 4 * width))
        first = rank == 0  # a bias that comes after a sum is added once
        self.activation = Activation(block.activation)
        self.ln_1 = Norm(block.ln_1.weight.numpy(), block.ln_1.eps)
        self.ln_2 = Norm(block.ln_2.weight.numpy(), block.ln_2.eps, self.activation.scale)
        weight = block.qkv.weight.numpy().reshape(3, width, width)[:, mine].copy()
        bias = block.qkv.bias.numpy().reshape(3, width)[:, mine] + weight @ block.ln_1.bias.numpy()
        for part in (weight, bias):
            part[0] *= np.float32((width // heads) ** -0.5)  # the scale of attention, on the queries
        self.qkv = product(weight.reshape(-1, width), bias.reshape(-1))
        self.q, self.kv = product(weight[0], bias[0]), product(weight[1:].reshape(-1, width), bias[1:].reshape(-1))
        self.out = product(block.out.weight.numpy()[:, mine], block.out.bias.numpy() if first else None)
        fc, fc_bias = block.fc.weight.numpy()[wide], block.fc.bias.numpy()[wide]
        self.fc = product(fc, (fc_bias + fc @ block.ln_2.bias.numpy()) * np.float32(self.activation.scale))
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
        """Queries, keys and values of the first layer (3w, M), of which ctx's have to be renewed."""
        normal, out = np.empty_like(chunk.start), np.empty_like(chunk.start)
        qkv = np.empty((3 * self.own, chunk.columns), np.float32)
        self.layers[0].ln_1.forward(chunk.start, normal, np.empty((1, chunk.columns), np.float32), out)
        self.layers[0].qkv.forward(out, qkv)
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
        return np.empty(0, np.float32) if self._memory is None else self._memory[start : self.used].reshape(shape)


class Kept:
    """What a layer keeps for its backward pass.

    Args:
        rank: for its sizes.
        chunk: the classes.
        arena: where.
        last: the last layer, which has queries and MLP for the picked columns alone.

    Attributes, with X = Q in the last layer, else M:
        normal_1, rstd_1: (W, M), (1, M), of the first norm.
        q, kv: (w, X), (2w, M); qkv: (3w, M), both of them in one, but for the last layer.
        weights: (H, R, K) of each block.
        normal_2, rstd_2: (W, X), (1, X), of the second norm.
        hidden: (4w, X), before the activation.
    """

    def __init__(self, rank: Rank, chunk: Chunk, arena: Arena, *, last: bool) -> None:
        full, own = chunk.columns, rank.own
        columns = len(chunk.picked) if last else full
        self.normal_1, self.rstd_1 = arena.take(rank.width, full), arena.take(1, full)
        self.qkv = arena.take(3 * own, full)
        self.q, self.kv = arena.take(own, columns) if last else self.qkv[:own], self.qkv[own:]
        self.weights = [arena.take(rank.heads, *b.mask.shape) for b in (chunk.last_blocks if last else chunk.blocks)]
        self.normal_2, self.rstd_2 = arena.take(rank.width, columns), arena.take(1, columns)
        self.hidden = arena.take(4 * own, columns)


class Work:
    """Buffers for X columns that hold nothing from one layer to the next, but for x, the residual stream or its gradient."""

    def __init__(self, rank: Rank, columns: int, arena: Arena) -> None:
        self.columns = columns
        self.x, self.h, self.spare = (arena.take(rank.width, columns) for _ in range(3))
        self.mixed, self.wide, self.dqkv = (arena.take(n * rank.own, columns) for n in (1, 4, 3))


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
        self._kept[0].qkv, self._kept[0].q, self._kept[0].kv = qkv, qkv[: rank.own], qkv[rank.own :]
        self._all, self._picked = Work(rank, chunk.columns, arena), Work(rank, len(chunk.picked), arena)
        n_ctx = chunk.prefix - 1
        self._ctx, self._ctx_rstd = Work(rank, n_ctx, arena), arena.take(1, n_ctx)

    @classmethod
    def floats(cls, rank: Rank, chunk: Chunk) -> int:
        """Size of the arena for a pass."""
        counter = Arena(None)
        cls(rank, chunk, np.empty((3 * rank.own, 0), np.float32), counter, np.empty(0, np.float32))
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
                layer.qkv.forward(work.h, kept.qkv)
            attend(self._heads(kept.q)[0], self._heads(kept.kv), chunk.blocks, kept.weights, self._heads(work.mixed)[0])
            self._residual(layer, kept, work)
        layer, kept, picked = layers[-1], self._kept[-1], self._picked
        layer.ln_1.forward(work.x, kept.normal_1, kept.rstd_1, work.h)
        layer.kv.forward(work.h, kept.kv)
        np.take(work.h, chunk.picked, axis=1, out=picked.h)
        np.take(work.x, chunk.picked, axis=1, out=picked.x)
        layer.q.forward(picked.h, kept.q)
        attend(self._heads(kept.q)[0], self._heads(kept.kv), chunk.last_blocks, kept.weights, self._heads(picked.mixed)[0])
        self._residual(layer, kept, picked)
        return picked.x[:, : chunk.classes]

    def backward(self, grad: Array) -> Array:
        """Gradient of the output (W, C) -> that of ctx (W, n), to be copied; once after each forward."""
        chunk, layers, work, picked = self._chunk, self._rank.layers, self._all, self._picked
        picked.x.fill(0)
        picked.x[:, : chunk.classes] = grad
        layer, kept, dkv = layers[-1], self._kept[-1], work.dqkv[self._rank.own :]
        dq = picked.dqkv[: self._rank.own]
        self._residual_backward(layer, kept, picked)
        q, kv, mixed = self._heads(kept.q)[0], self._heads(kept.kv), self._heads(picked.mixed)[0]
        attend_backward(mixed, q, kv, chunk.last_blocks, kept.weights, self._heads(dq)[0], self._heads(dkv))
        part = self._part(work.columns)
        layer.kv.backward(dkv, part)
        layer.q.backward(dq, picked.h)
        eot = chunk.picked[: chunk.classes]
        part[:, eot] += picked.h[:, : chunk.classes]
        self._total(work)
        work.x.fill(0)
        work.x[:, eot] = picked.x[:, : chunk.classes]
        layer.ln_1.backward(work.h, kept.normal_1, kept.rstd_1, work.x, work.spare)
        for layer, kept in zip(layers[-2::-1], self._kept[-2::-1], strict=True):
            self._residual_backward(layer, kept, work)
            q, kv, mixed = self._heads(kept.q)[0], self._heads(kept.kv), self._heads(work.mixed)[0]
            dq = work.dqkv[: self._rank.own]
            attend_backward(mixed, q, kv, chunk.blocks, kept.weights, self._heads(dq)[0], self._heads(dkv))
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
        layer.qkv.forward(work.h, work.dqkv)
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
        layer.fc.forward(work.h, kept.hidden)
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
        self._rank.team.meet()
        parts = self._all_parts(work.columns)
        self._turn ^= 1
        return parts
