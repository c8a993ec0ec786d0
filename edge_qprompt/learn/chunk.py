"""Some classes behind the prefix, laid out in columns: all of a training step that does not depend on ctx.

Symbols: P = 1 + n columns of SOT and ctx, C classes, M columns in all, Q of them picked for the output,
W width; of a block of attention: R queries, K keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.learn.tower import Suffixes, TextTower

ALIGN = 4  # columns: what the kernels of the BLAS take at a time
BLOCK = 48  # columns a block of attention, about
CHUNK = 512  # columns a chunk, at most but for one class: enough for the BLAS, and few for the caches

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """Queries, and what they look at: the first `prefix` columns, then the columns `keys`.

    Attributes:
        queries: of the columns of the chunk, or of its picked ones.
        mask: (R, K), 0 or -inf.
    """

    queries: slice
    prefix: int
    keys: slice
    mask: Array

    def gather(self, kv: Array) -> Array:
        """Keys and values of the block (.., K), from those of the chunk (.., M)."""
        own = kv[..., self.keys]
        return np.concatenate([kv[..., : self.prefix], own], axis=-1) if self.prefix else own

    def scatter(self, grad: Array, into: Array) -> None:
        """The transpose of `gather`; blocks come in order, the first without a prefix."""
        into[..., self.keys] = grad[..., self.prefix :]
        if self.prefix:
            into[..., : self.prefix] += grad[..., : self.prefix]


@dataclass(frozen=True)
class Chunk:
    """See the module. Use `cut`.

    Attributes:
        prefix, classes, columns: P, C, M.
        start: (W, M), the residual stream before the first layer; what ctx will take is undefined,
            what is left over repeats SOT, which nobody reads.
        picked: (Q,) columns of EOT in the order of the classes, filled up with SOT's.
        blocks: of all columns.
        last_blocks: of the picked ones.
    """

    prefix: int
    classes: int
    columns: int
    start: Array
    picked: NDArray[np.int64]
    blocks: tuple[Block, ...]
    last_blocks: tuple[Block, ...]

    @classmethod
    def cut(cls, tower: TextTower, suffixes: Suffixes, n_ctx: int, columns: int = CHUNK) -> list[Chunk]:
        """All classes, in as many chunks of at most `columns` columns as it takes."""
        lengths = [group.length for group in suffixes.groups for _ in range(group.count)]
        room = max(columns - 1 - n_ctx, 1)
        count = -(-sum(lengths) // room)
        ends = np.cumsum(lengths)
        cuts = [0, *np.searchsorted(ends, ends[-1] * np.arange(1, count) / count).tolist(), len(lengths)]
        rows = [0, *ends.tolist()]
        parts = [(a, b) for a, b in pairwise(cuts) if b > a]
        return [cls._of(tower, suffixes.vectors.numpy()[rows[a] : rows[b]], lengths[a:b], 1 + n_ctx) for a, b in parts]

    @classmethod
    def _of(cls, tower: TextTower, vectors: Array, lengths: Sequence[int], prefix: int) -> Chunk:
        used = prefix + len(vectors)
        columns = _aligned(used)
        start = np.repeat(tower.sot.numpy().T, columns, axis=1)  # (W, M)
        start[:, prefix:used] = vectors.T
        ends = prefix + np.cumsum(lengths)
        owner = np.full(columns, -1)
        owner[prefix:used] = np.repeat(np.arange(len(lengths)), lengths)
        picked = np.zeros(_aligned(len(lengths)), np.int64)
        picked[: len(ends)] = ends - 1
        blocks, last_blocks, done = [], [], 0
        for first, end in _spans((ends - lengths).tolist(), columns):
            shared = prefix if first else 0
            keys = np.concatenate([np.arange(shared), np.arange(first, end)])
            stop = len(picked) if end == columns else done + int(((ends > first) & (ends <= end)).sum())
            queries, last_queries = slice(first, end), slice(done, stop)
            blocks.append(Block(queries, shared, queries, _mask(np.arange(first, end), keys, owner, prefix, used)))
            last_blocks.append(Block(last_queries, shared, queries, _mask(picked[last_queries], keys, owner, prefix, used)))
            done = stop
        return cls(prefix, len(lengths), columns, start, picked, tuple(blocks), tuple(last_blocks))


def _aligned(columns: int) -> int:
    return -(-columns // ALIGN) * ALIGN


def _spans(firsts: Sequence[int], columns: int) -> Iterator[tuple[int, int]]:
    """Cut the columns into blocks of about BLOCK at the first columns of classes."""
    start = 0
    for first in firsts:
        if first - start >= BLOCK and columns - first >= BLOCK // 2:
            yield start, first
            start = first
    yield start, columns


def _mask(rows: NDArray[np.int64], keys: NDArray[np.int64], owner: NDArray[np.int64], prefix: int, used: int) -> Array:
    """0 where a row may look at a key: causal, the prefix or the own class; left-over columns see SOT alone."""
    seen = (keys[None] <= rows[:, None]) & ((keys < prefix)[None] | (owner[keys][None] == owner[rows][:, None]))
    seen &= (rows < used)[:, None] | (keys == 0)[None]
    return np.where(seen, np.float32(0), np.float32(-np.inf))
