"""Ranges of activations, chosen so that quantizing loses least (OMSE): how `quantized_graph` is calibrated.

Each tensor's values over the calibration photos are sampled. Of 90 ranges, from all that was seen down to a ninth of it,
the one with the least squared error is taken. Source: P4Q (arXiv 2409.17634), after Choukroun et al. (arXiv 1902.06822).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Range

SHRINK_STEPS, SHRINK = 90, 0.01  # of the range seen, a step
SAMPLES = 1 << 14  # of one tensor, over all photos
SEED = 0
SMALLEST = 1e-30  # range: of a tensor that is always zero

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Fit:
    """A range, and the squared error it leaves, relative to the values' own square."""

    range: Range
    error: float


@dataclass
class Sampler:
    """Values of one tensor: some of each batch, its smallest and its largest, and the mean of each channel of a map.

    Attributes:
        batches: how many will come.
    """

    batches: int
    low: float = 0.0  # zero is always within a range: it has to be exact
    high: float = 0.0
    values: list[Array] = field(default_factory=list)
    means: list[Array] = field(default_factory=list)
    fits: dict[int, Fit] = field(default_factory=dict)

    def add(self, batch: Array, rng: np.random.Generator) -> None:
        """Take from a batch of any shape."""
        flat = batch.reshape(-1)
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        if batch.ndim == 4:
            self.means.append(batch.mean(axis=(0, 2, 3)))
        self.values.append(flat[rng.integers(flat.size, size=min(flat.size, -(-SAMPLES // self.batches)))])

    @property
    def channel_mean(self) -> Array:
        """Of maps (B, C, H, W), (C,); batches are of one size."""
        return np.asarray(np.mean(self.means, axis=0), np.float32)

    def fit(self, bits: int) -> Fit:
        """The range with the least error for unsigned integers of `bits` bits."""
        if bits not in self.fits:
            values = np.concatenate(self.values)
            tried = (self._shrunk(values, bits, 1 - SHRINK * step) for step in range(SHRINK_STEPS))
            self.fits[bits] = min(tried, key=lambda fit: fit.error)
        return self.fits[bits]

    def _shrunk(self, values: Array, bits: int, share: float) -> Fit:
        low, high = share * self.low, share * self.high
        levels = (1 << bits) - 1
        scale = float(np.float32(max(high - low, SMALLEST) / levels))
        found = Range(bits, scale, round(-low / scale))
        error = np.square(rounded(values, found) - values).sum() / max(np.square(values).sum(), SMALLEST)
        return Fit(found, float(error))


def rounded(values: Array, to: Range) -> Array:
    """Values as they are after quantizing, any shape."""
    scale = np.float32(to.scale)
    return scale * (np.clip(np.round(values / scale) + np.float32(to.zero), 0, (1 << to.bits) - 1) - np.float32(to.zero))


def sample(names: Iterable[str], batches: Iterable[Mapping[str, Array]], count: int) -> dict[str, Sampler]:
    """Samplers of tensors by name.

    Args:
        names: of the tensors.
        batches: their values, a batch of photos at a time.
        count: of batches.
    """
    rng = np.random.default_rng(SEED)
    samplers = {name: Sampler(count) for name in names}
    for batch in batches:
        for name, sampler in samplers.items():
            sampler.add(batch[name], rng)
        del batch  # before the next one is computed: it holds every activation of a model
    return samplers
