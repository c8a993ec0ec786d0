"""The quantizer inside the training graph: quantized values forward, identity backward.

Source: Quantized Prompt (arXiv 2407.10704), section 3.3; the estimator is Bengio et al. 2013.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_qprompt.codebook import Clustering, ClusterSettings, Quantized
from edge_qprompt.learn.later import torch

if TYPE_CHECKING:
    from torch import Tensor


class StraightThrough:
    """Quantizes a tensor of N scalars, and keeps its centres up to date.

    Args:
        weights: any shape; the centres are fitted to these.
        settings: bits, and when to cluster again.

    Attributes:
        clustering: as it is now.
        looks: step, drift of the histogram in units of (K - 1) / N, and whether it was clustered again.
    """

    def __init__(self, weights: Tensor, settings: ClusterSettings) -> None:
        self.clustering = Clustering.fit(_array(weights), settings)
        self.looks: list[tuple[int, float, bool]] = []

    def __call__(self, weights: Tensor) -> Tensor:
        """W_q, exactly, with the gradient of the identity."""
        quantized = torch.from_numpy(self.quantize(weights).values())
        return quantized + (weights - weights.detach())  # the bracket is zero and carries the gradient

    def quantize(self, weights: Tensor) -> Quantized:
        """Indexes and codebook of the weights as they are now."""
        return self.clustering.quantize(_array(weights))

    def look(self, weights: Tensor, step: int) -> None:
        """Constrained adaptive clustering: every `interval` steps, cluster again if it is due."""
        interval = self.clustering.settings.interval
        if interval and step % interval == 0:
            before, array = self.clustering, _array(weights)
            self.clustering = before.look(array)
            self.looks.append((step, before.drift(array), self.clustering is not before))

    def facts(self) -> dict[str, Any]:
        """How often the centres were fitted again, each look at whether they should be, and T_KL as the settings have it."""
        return {"reclusterings": self.clustering.fired, "looks": self.looks, "threshold": self.clustering.settings.threshold}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        c = self.clustering
        counts = torch.tensor([c.error, float(c.fired)], dtype=torch.float64)
        looks = torch.tensor(self.looks, dtype=torch.float64).reshape(-1, 3)
        centres, indexes = torch.from_numpy(c.centres), torch.from_numpy(c.indexes)
        return {"centres": centres, "indexes": indexes, "error_fired": counts, "looks": looks}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        error, fired = state["error_fired"].tolist()
        centres, indexes = state["centres"].numpy().copy(), state["indexes"].numpy().copy()
        self.clustering = Clustering(self.clustering.settings, centres, indexes, error, int(fired))
        self.looks = [(int(step), drift, bool(again)) for step, drift, again in state["looks"].tolist()]


def _array(weights: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return weights.detach().numpy()
