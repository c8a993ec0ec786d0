"""Pictures over the epochs: accuracy, and what becomes of the learned tokens. Means over data sets and seeds.

After figures 2, 3, 6 and 7 of Quantized Prompt (arXiv 2407.10704).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.bench.cell import BINS, Row

Floats = NDArray[np.float64]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Base and new accuracy of each variant; the histogram of its tokens at each snapshot; KL between neighbouring ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure = pyplot.figure(figsize=(11, 9), layout="constrained")
    half = len(variants)
    grid = figure.add_gridspec(3, 2 * half, height_ratios=(3, 3, 2))
    places = {"base": grid[0, :half], "new": grid[0, half:], "KL": grid[1, :half], "std": grid[1, half:]}
    titles = ("base classes, %", "new classes, %", "KL between neighbouring snapshots", "standard deviation of the tokens")
    axes = {name: figure.add_subplot(place, title=title) for (name, place), title in zip(places.items(), titles, strict=True)}
    for column, variant in enumerate(variants):
        mine = [row for row in rows if row["variant"] == variant]
        epochs = [point["epoch"] for point in mine[0]["curve"]]
        for name in ("base", "new"):
            axes[name].plot(epochs, 100 * _mean(mine, name), label=variant if name == "base" else None)
        axes["std"].plot(epochs, _mean(mine, "std"))
        axes["KL"].semilogy(epochs[1:], _drift(mine))
        axis = figure.add_subplot(grid[2, 2 * column : 2 * column + 2])
        histogram = _mean(mine, "histogram")  # (snapshots, bins)
        axis.imshow(histogram.T, origin="lower", aspect="auto", extent=(epochs[0], epochs[-1], BINS[0], BINS[-1]), cmap="magma_r")
        axis.set_title(variant, fontsize="x-small")
        axis.set_xlabel("epoch", fontsize="x-small")
        axis.tick_params(labelsize="x-small")
    for axis in axes.values():
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(variants), fontsize="x-small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _mean(rows: Sequence[Row], name: str) -> Floats:
    """Of what the snapshots hold under a name, over rows: (snapshots, ...)."""
    return np.asarray(np.mean([_values(row, name) for row in rows], axis=0), np.float64)


def _values(row: Row, name: str) -> list[Any]:
    return [point[name] for point in row["curve"]]


def _drift(rows: Sequence[Row]) -> Floats:
    """KL of how often each index stands, or of the histogram, from the snapshot before, one count added; (snapshots - 1,)."""
    drifts = []
    for row in rows:
        counts = np.array(_values(row, "indexes" if "indexes" in row["curve"][0] else "histogram"), np.float64) + 1
        shares = counts / counts.sum(axis=1, keepdims=True)
        drifts.append((shares[1:] * np.log(shares[1:] / shares[:-1])).sum(axis=1))
    return np.asarray(np.mean(drifts, axis=0) + np.finfo(np.float32).tiny, np.float64)
