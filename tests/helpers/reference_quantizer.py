"""The paper's quantizer at 1 bit, by hand, to hold ours against. Source: Quantized Prompt (arXiv 2407.10704), section 3.3."""

from __future__ import annotations

from torch import Tensor, where


def one_bit(start: Tensor, weights: Tensor) -> Tensor:
    """sigma Q((W - mu) / sigma) + mu, Q to the nearer of two centres of the normalised start: means of its two best halves.

    Args:
        start: any shape, where learning began.
        weights: any shape.
    """
    normal = ((start.double() - start.double().mean()) / start.double().std(correction=0)).flatten().sort().values
    cuts = [(normal[:i], normal[i:]) for i in range(1, len(normal))]
    low, high = min(cuts, key=lambda cut: sum(float(((half - half.mean()) ** 2).sum()) for half in cut))
    plain = weights.detach().double()
    mu, sigma = plain.mean(), plain.std(correction=0)
    nearer_high = (plain - mu) / sigma > (low.mean() + high.mean()) / 2
    return (sigma * where(nearer_high, high.mean(), low.mean()) + mu).float()
