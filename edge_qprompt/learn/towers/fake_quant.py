"""What a quantized tower computes, in float and with a gradient.

Rounding passes the gradient straight through inside an activation's range and stops it outside, where nothing would change.
Ranges are fixed and of a whole tensor, so any part of a tensor, in any order, becomes what it becomes in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edge_qprompt.backbone import Product, Range, quantized_weight
from edge_qprompt.errors import BackboneError

INPUTS = (1, 2, 2, 1, 1, 1)  # of a layer's products: q, k and v; scores; context; output; the two of the MLP


def rounded(x: Tensor, range_: Range | None) -> Tensor:
    """An activation of any shape as its integers stand for it; itself without a range."""
    if range_ is None:
        return x
    return torch.fake_quantize_per_tensor_affine(x, range_.scale, range_.zero, 0, (1 << range_.bits) - 1)


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """A weight (O, ...) as its integers stand for it; itself where `bits` is 0."""
    if not bits:
        return weight
    integers, scale = quantized_weight(weight.numpy(), bits)
    flat = torch.from_numpy(integers).flatten(1) * torch.from_numpy(scale)[:, None]  # (O, I)
    return flat.view_as(weight)


def by_layer(products: Sequence[Product], layers: int) -> list[tuple[Product, ...]]:
    """The products of each layer; those of a tower in float where there are none.

    Raises:
        BackboneError: others than the tower has.
    """
    found = list(products) or [Product("", 0, (None,) * count, 0.0, 0.0) for count in INPUTS] * layers
    if [len(product.inputs) for product in found] != [*INPUTS] * layers:
        raise BackboneError(f"{len(found)} quantized products do not fit a tower of {layers} layers: quantize the backbone again")
    return [tuple(found[i : i + len(INPUTS)]) for i in range(0, len(found), len(INPUTS))]
