"""Some classes behind the prefix, laid out in columns: all of a training step that does not depend on ctx.

Symbols: P = 1 + n columns of SOT and ctx, C classes, M columns in all, Q of them picked for the output,
W width; of windows of attention: B windows of R queries and K keys each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_qprompt.learn.towers.text import Suffixes, TextTower

ALIGN = 4  # columns: what the kernels of the BLAS take at a time
WINDOWS = range(32, 65)  # queries a window, about: fewer are many small products, more are mostly masked
CHUNK = 512  # columns a chunk, at most but for one class: enough for the BLAS, and few for the caches

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """Which keys the queries look at: the prefix, and a window of K columns for every R queries.

    All windows are of one size, so that a single call computes them all. They may begin before column 0:
    keys, values and their gradients have `margin` columns in front, which are zero and masked.

    Attributes:
        margin: the longest class but one column.
        keys: K.
        mask: (B, R, P + K), 0 or -inf.
        starts: where each window begins, counted from the margin; None for one every R columns.
        source: (M,) where in (B K) the gradient of a column is found, where `starts` is given.
    """

    margin: int
    keys: int
    mask: Array
    starts: NDArray[np.int64] | None = None
    source: NDArray[np.int64] | None = None

    def gather(self, kv: Array) -> Array:
        """Keys and values (.., d, margin + M) -> (.., B, d, K), a view where it can be one."""
        windows = sliding_window_view(kv, self.keys, axis=-1)  # (.., d, margin + M - K + 1, K)
        picked = windows[..., :: self.mask.shape[1], :] if self.starts is None else windows[..., self.starts, :]
        return picked.swapaxes(-3, -2)

    def scatter(self, parts: Array, into: Array) -> None:
        """The transpose of `gather`: (.., B, d, K) -> (.., d, margin + M), filled."""
        moved = parts.swapaxes(-3, -2)  # (.., d, B, K)
        if self.source is not None:
            np.take(moved.reshape(*moved.shape[:-2], -1), self.source, axis=-1, out=into[..., self.margin :], mode="clip")
            return
        rows = self.mask.shape[1]
        blocks = (*moved.shape[:-1], rows)
        into[..., self.margin :].reshape(blocks)[...] = moved[..., self.margin :]
        into[..., : self.margin] = 0
        if self.margin:
            into[..., : moved.shape[-2] * rows].reshape(blocks)[..., : self.margin] += moved[..., : self.margin]


@dataclass(frozen=True)
class Chunk:
    """See the module. Use `cut`.

    Attributes:
        prefix, classes, columns: P, C, M.
        start: (W, M), the residual stream before the first layer; what ctx will take is undefined,
            what is left over repeats SOT, which nobody reads.
        picked: (Q,) columns of EOT in the order of the classes, filled up with SOT's.
        windows: of all columns.
        last_windows: of the picked ones; of the same margin.
    """

    prefix: int
    classes: int
    columns: int
    start: Array
    picked: NDArray[np.int64]
    windows: Windows
    last_windows: Windows

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
        used, classes, margin = prefix + len(vectors), len(lengths), max(lengths) - 1
        count, rows = _windows(used, margin)
        columns = count * rows
        start = np.repeat(tower.sot.numpy().T, columns, axis=1)  # (W, M)
        start[:, prefix:used] = vectors.T
        ends = prefix + np.cumsum(lengths)
        owner = np.full(columns, -1)  # -1: the prefix, -2: left over
        owner[prefix:used], owner[used:] = np.repeat(np.arange(classes), lengths), -2
        picked = np.zeros(_aligned(classes + 1), np.int64)  # one at least is left over
        picked[:classes] = ends - 1

        first = np.arange(count) * rows - margin
        mask = _mask(np.arange(columns).reshape(count, rows), first, margin + rows, owner, prefix)
        last_first = np.where(np.arange(len(picked)) < classes, picked - margin, 0)
        last_mask = _mask(picked[:, None], last_first, margin + 1, owner, prefix)
        last_mask[classes:, :, prefix:] = -np.inf
        nothing = classes * (margin + 1)  # in the window of a left-over query, whose keys all are masked
        source = np.where(owner >= 0, owner * (margin + 1) + np.arange(columns) - last_first[owner], nothing)
        return cls(
            prefix,
            classes,
            columns,
            start,
            picked,
            Windows(margin, margin + rows, mask),
            Windows(margin, margin + 1, last_mask, last_first + margin, source),
        )


def _aligned(columns: int) -> int:
    return -(-columns // ALIGN) * ALIGN


def _windows(used: int, margin: int) -> tuple[int, int]:
    """How many windows of how many queries hold `used` columns with the least left over; no fewer queries than the margin."""
    if _aligned(used) < WINDOWS.stop:
        return 1, _aligned(used)
    sizes = [max(size, margin) for size in WINDOWS]
    counts = [(-(-used // size), size) for size in sizes]
    return min(counts, key=lambda c: (_aligned(c[0] * c[1]), c[0] * c[1] % ALIGN, c[1]))


def _mask(rows: NDArray[np.int64], first: NDArray[np.int64], keys: int, owner: NDArray[np.int64], prefix: int) -> Array:
    """(B, R, P + K): 0 where a row may look at a key.

    That is causally, at the prefix and at its own class; left-over columns look at SOT.

    Args:
        rows: (B, R) columns of the queries.
        first: (B,) first column of each window of `keys` keys.
        owner: (M,) class of each column, or less than 0.
        prefix: P.
    """
    shared = (np.arange(prefix) <= rows[..., None]) & ((owner[rows] > -2)[..., None] | (np.arange(prefix) == 0))
    window = (first[:, None] + np.arange(keys))[:, None]  # (B, 1, K)
    inside = (window >= prefix) & (window < len(owner))
    own = inside & (window <= rows[..., None]) & (owner[np.where(inside, window, 0)] == owner[rows][..., None])
    own &= (owner[rows] >= 0)[..., None]
    return np.where(np.concatenate([shared, own], axis=-1), np.float32(0), np.float32(-np.inf))
