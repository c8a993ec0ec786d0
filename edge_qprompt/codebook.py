"""Scalar quantization of a prompt: normalise, cluster, index, and know when to cluster again.

Source: Quantized Prompt (arXiv 2407.10704), sections 3.3 and 4. Symbols: N scalars in the
prompt, b bits, K = 2^b centres, W the weights, W^ = (W - mu) / sigma the normalised weights.

    Q(x)  = nearest of the K centres of a 1-D k-means, fitted to W^
    W_q   = sigma * Q(W^) + mu

numpy only: the training loop wraps this in a straight-through estimator, the pack stores it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = NDArray[np.float32] | NDArray[np.float64]
Ranks = NDArray[np.intp]

MAX_BITS = 8
LLOYD_LIMIT = 300  # Lloyd on sorted scalars settles in tens of rounds; the limit only bounds it
START_ENDS = 512  # bounds the dynamic programme: (512, 512) errors are 2 MB, a few milliseconds at b = 4


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of all N scalars of a prompt."""

    mean: float
    std: float

    @classmethod
    def of(cls, weights: Weights) -> Moments:
        """Moments of `weights` (any shape); a constant prompt gets std 1, so it stays finite."""
        flat = np.asarray(weights, np.float64)
        std = float(flat.std())
        return cls(float(flat.mean()), std if std > 0 else 1.0)

    @classmethod
    def identity(cls) -> Moments:
        """Moments that change nothing: quantization without normalisation, for ablations."""
        return cls(0.0, 1.0)

    def normalise(self, weights: Weights) -> Floats:
        """(W - mu) / sigma, the same shape, float64."""
        return (np.asarray(weights, np.float64) - self.mean) / self.std

    def restore(self, normalised: Floats) -> Floats:
        """sigma * W^ + mu, the same shape."""
        return normalised * self.std + self.mean


def kmeans_1d(values: Weights, bits: int) -> Floats:
    """Centres of a 1-D k-means with K = 2^bits clusters: dynamic programming, then Lloyd's algorithm.

    Deterministic. The clusters of sorted scalars are neighbouring runs, hence two prefix sums and a
    binary search are one round of Lloyd. Lloyd alone stops at the first local optimum (from the
    quantiles: 8 % above the least error at b = 4 for N(0,1), 60 % for a real prompt), so it starts
    from the best of all partitions whose ends lie on a grid of START_ENDS.

    Args:
        values: any shape, finite, N >= 1 scalars.
        bits: b, 1 to 8.

    Returns:
        (K,) float64, non-decreasing. Centres that no value needs repeat one of the values.

    Raises:
        ValueError: bits out of range, no values, or a value that is not finite.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits is {bits}, it can be 1 to {MAX_BITS}")
    ordered = np.sort(np.asarray(values, np.float64), axis=None)
    if ordered.size == 0 or not np.isfinite(ordered).all():
        raise ValueError("k-means needs at least one value, and finite ones only")
    offset = ordered.mean()  # prefix sums of values far from zero would cancel
    ordered -= offset
    sums = _prefix_sums(ordered)
    edges = _best_edges(ordered, 2**bits)
    centres = _run_means(sums, edges, ordered[np.minimum(edges[:-1], ordered.size - 1)])
    for _ in range(LLOYD_LIMIT):
        inner = np.searchsorted(ordered, _midpoints(centres), side="right")  # a tie goes down, as in `nearest`
        moved = np.sort(_run_means(sums, np.concatenate([[0], inner, [ordered.size]]), centres))
        if np.array_equal(moved, centres):
            break
        centres = moved
    return np.asarray(centres + offset, np.float64)


def _best_edges(ordered: Floats, count: int) -> Ranks:
    """Edges (K + 1,) of the K runs of least squared error whose ends are among `_possible_ends`.

    Exact 1-D k-means by dynamic programming (Wang and Song, R Journal 3/2, 2011) where N < START_ENDS.
    """
    ends = _possible_ends(ordered)  # (M,)
    sums, squares = _prefix_sums(ordered)[ends], _prefix_sums(ordered**2)[ends]
    members = ends[:, None] - ends  # (M, M), row: where a run ends, column: where it starts
    error = squares[:, None] - squares - (sums[:, None] - sums) ** 2 / np.maximum(members, 1)
    error = np.where(members >= 0, error, np.inf)
    least = error[:, 0]
    starts = []
    for _ in range(count - 1):
        total = error + least  # (M, M)
        starts.append(total.argmin(axis=1))
        least = total.min(axis=1)
    path = [ends.size - 1]
    for start in reversed(starts):
        path.append(int(start[path[-1]]))
    return ends[[0, *reversed(path)]]


def _possible_ends(ordered: Floats) -> Ranks:
    """Ranks at which a run may end, 0 and N among them: all of them, or even steps in rank and in value."""
    size = ordered.size
    if size < START_ENDS:
        return np.arange(size + 1)
    by_rank = np.linspace(0, size, START_ENDS // 2).astype(np.intp)
    by_value = np.searchsorted(ordered, np.linspace(ordered[0], ordered[-1], START_ENDS // 2))  # reaches the outliers
    return np.unique(np.concatenate([by_rank, by_value]))


def _prefix_sums(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])  # (N + 1,)


def _run_means(sums: Floats, edges: Ranks, empty: Floats) -> Floats:
    """Means (K,) of the runs between edges (K + 1,); an empty run gets its entry of `empty` (K,)."""
    members = np.diff(edges)
    return np.where(members > 0, np.diff(sums[edges]) / np.maximum(members, 1), empty)


def nearest(values: Weights, centres: Floats) -> NDArray[np.uint8]:
    """Index of the nearest centre for each value; a tie goes to the lower one.

    Args:
        values: any shape.
        centres: (K,) non-decreasing.

    Returns:
        uint8, the shape of `values`.
    """
    return np.searchsorted(_midpoints(centres), np.asarray(values, np.float64)).astype(np.uint8)


def distortion(values: Weights, centres: Floats) -> float:
    """Mean squared error of quantizing `values` with `centres`."""
    flat = np.asarray(values, np.float64)
    return float(np.mean((flat - centres[nearest(flat, centres)]) ** 2))


def kl_divergence(current: NDArray[np.uint8], old: NDArray[np.uint8], bits: int) -> float:
    """KL(p_current || p_old) of two index histograms, in nats.

    Every bin starts at one half (Jeffreys' prior), so an empty bin does not make it infinite.
    """
    p, q = (np.bincount(i.ravel(), minlength=2**bits) + 0.5 for i in (current, old))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p * np.log(p / q)))


def _midpoints(centres: Floats) -> Floats:
    return (centres[1:] + centres[:-1]) / 2


@dataclass(frozen=True)
class ClusterSettings:
    """When to cluster, and on what.

    Attributes:
        bits: b, 1 to 8.
        interval: t, steps between two looks at the histograms; 0 fits the centres once.
        threshold: T_KL in units of (K - 1) / N, the size of the KL between two fresh samples. The paper has no value; near 1,
            re-clusterings undo what 1 bit learns: docs/adr/0015.
        normalise: cluster (W - mu) / sigma (the paper), or W itself (ablation).
        constrained: re-cluster only if the histogram drifted and the error grew (the paper's
            constrained adaptive clustering); otherwise at every look (ablation).
    """

    bits: int = 1
    interval: int = 10
    threshold: float = 10.0
    normalise: bool = True
    constrained: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"bits is {self.bits}, it can be 1 to {MAX_BITS}")
        if self.interval < 0 or not self.threshold >= 0:  # not a number is neither
            raise ValueError(f"interval and threshold cannot be negative: {self.interval}, {self.threshold}")


@dataclass(frozen=True)
class Clustering:
    """Centres, the weights' histogram when they were fitted, and how often that has happened.

    Immutable, so a checkpoint of it is its fields.

    Attributes:
        centres: (K,) float64, non-decreasing, in the normalised space.
        indexes: (N,) uint8, the assignment of the weights that triggered the last clustering.
        error: distortion of those weights under those centres, in the normalised space.
        fired: number of re-clusterings after the first fit.
    """

    settings: ClusterSettings
    centres: Floats
    indexes: NDArray[np.uint8]
    error: float
    fired: int = 0

    @classmethod
    def fit(cls, weights: Weights, settings: ClusterSettings, fired: int = 0) -> Clustering:
        """Cluster `weights` (any shape, N scalars)."""
        flat = cls._moments(weights, settings).normalise(weights).ravel()
        centres = kmeans_1d(flat, settings.bits)
        return cls(settings, centres, nearest(flat, centres), distortion(flat, centres), fired)

    def look(self, weights: Weights) -> Clustering:
        """Constrained adaptive clustering (section 4): itself, or a fresh fit if it is due.

        Due means: KL(p_cur || p_old) of the index histograms under the *current* centres is
        above threshold * (K - 1) / N, and the quantization error has grown since the last fit.
        """
        if not self.settings.constrained:
            return self.fit(weights, self.settings, self.fired + 1)
        flat = self.moments(weights).normalise(weights).ravel()
        if self.drift(weights) > self.settings.threshold and distortion(flat, self.centres) > self.error:
            return self.fit(weights, self.settings, self.fired + 1)
        return self

    def drift(self, weights: Weights) -> float:
        """KL(p_cur || p_old) of the index histograms under the current centres, in units of (K - 1) / N."""
        flat, bits = self.moments(weights).normalise(weights).ravel(), self.settings.bits
        return float(kl_divergence(nearest(flat, self.centres), self.indexes, bits) * flat.size / (2**bits - 1))

    def moments(self, weights: Weights) -> Moments:
        """What normalises `weights` under these settings."""
        return self._moments(weights, self.settings)

    def quantize(self, weights: Weights) -> Quantized:
        """Indexes and the codebook with mu and sigma folded in."""
        moments = self.moments(weights)
        indexes = nearest(moments.normalise(weights), self.centres)
        return Quantized(moments.restore(self.centres), indexes, self.settings.bits)

    @staticmethod
    def _moments(weights: Weights, settings: ClusterSettings) -> Moments:
        return Moments.of(weights) if settings.normalise else Moments.identity()


@dataclass(frozen=True)
class Quantized:
    """A quantized tensor.

    Attributes:
        codebook: (K,) float64, non-decreasing, in the units of the weights.
        indexes: uint8 in [0, K), the tensor's shape.
        bits: b.
    """

    codebook: Floats
    indexes: NDArray[np.uint8]
    bits: int

    def values(self) -> NDArray[np.float32]:
        """The tensor that the indexes stand for, float32."""
        return self.codebook[self.indexes].astype(np.float32)
