"""Frozen pieces of a tower that hand their gradient on to their input, feature-major, into given buffers.

Activations are (features, columns) float32. Elementwise work and products are numpy's: its OpenBLAS
is 5 to 10 % faster at these shapes than the MKL inside torch, and needs no transposed copy of a weight
(docs/adr/0006-step.md). What numpy lacks (GELU, softmax, bfloat16) is torch's, on the same memory.

Symbols: W width, M columns, H heads of one thread, d features of a head, R queries, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_qprompt.learn.chunk import Block
from edge_qprompt.learn.tower import QUICK_GELU

Array = NDArray[np.float32]
aten = torch.ops.aten


class Norm:
    """LayerNorm over the rows of (W, M), without its bias, which the next product has.

    Args:
        gain: (W,).
        eps: added to the variance.
        scale: another factor on the output that the gradient does not get; see `Activation`.
    """

    def __init__(self, gain: Array, eps: float, scale: float = 1.0) -> None:
        self._gain = np.ascontiguousarray(gain[:, None])
        self._scaled = self._gain * np.float32(scale)
        self._eps = np.float32(eps)
        self._mean = np.full((1, len(gain)), 1 / len(gain), np.float32)

    def forward(self, x: Array, normal: Array, rstd: Array, out: Array) -> None:
        """x (W, M) -> normal (W, M) and rstd (1, M), kept for backward, and out (W, M)."""
        np.matmul(self._mean, x, out=rstd)
        np.subtract(x, rstd, out=normal)
        np.multiply(normal, normal, out=out)
        np.matmul(self._mean, out, out=rstd)
        np.add(rstd, self._eps, out=rstd)
        np.divide(np.float32(1), np.sqrt(rstd, out=rstd), out=rstd)
        np.multiply(normal, rstd, out=normal)
        np.multiply(normal, self._scaled, out=out)

    def backward(self, grad: Array, normal: Array, rstd: Array, into: Array, spare: Array) -> None:
        """into (W, M) += gradient of x; grad (W, M), that of out, and spare (W, M) are overwritten."""
        np.multiply(grad, self._gain, out=grad)
        np.multiply(grad, normal, out=spare)
        inner = self._mean @ spare  # (1, M)
        np.subtract(grad, self._mean @ grad, out=grad)
        np.subtract(grad, np.multiply(normal, inner, out=spare), out=grad)
        np.add(into, np.multiply(grad, rstd, out=grad), out=into)


class Product:
    """weight @ x + bias in float32.

    Args:
        weight: (out, in), any strides.
        bias: (out,), or None for none.
    """

    def __init__(self, weight: Array, bias: Array | None) -> None:
        self._weight, self._bias = weight, None if bias is None else np.ascontiguousarray(bias[:, None])

    def forward(self, x: Array, out: Array) -> None:
        """x (in, M) -> out (out, M)."""
        np.matmul(self._weight, x, out=out)
        if self._bias is not None:
            np.add(out, self._bias, out=out)

    def backward(self, grad: Array, out: Array) -> None:
        """Gradient (out, M) of the output -> out (in, M), that of x."""
        np.matmul(self._weight.T, grad, out=out)


class LowProduct:
    """The same with weight and x in bfloat16, summed in float32 by the processor, result rounded to bfloat16."""

    def __init__(self, weight: Array, bias: Array | None) -> None:
        self._weight = _tensor(weight).bfloat16().contiguous()
        self._bias = None if bias is None else np.ascontiguousarray(bias[:, None])

    def forward(self, x: Array, out: Array) -> None:
        """See `Product`."""
        _tensor(out).copy_(self._weight @ _tensor(x).bfloat16())
        if self._bias is not None:
            np.add(out, self._bias, out=out)

    def backward(self, grad: Array, out: Array) -> None:
        """See `Product`."""
        _tensor(out).copy_(self._weight.t() @ _tensor(grad).bfloat16())


class Activation:
    """GELU, or QuickGELU as SiLU.

    QuickGELU(u) = SiLU(1.702 u) / 1.702. The factor before comes from the norm in front, whose gradient
    leaves it out, as the division behind is left out of this gradient: the two cancel.
    """

    def __init__(self, name: str) -> None:
        self._quick = name != "gelu"
        self.scale = QUICK_GELU if self._quick else 1.0

    def forward(self, hidden: Array, out: Array) -> None:
        """hidden, scaled -> out, any shape."""
        if self._quick:
            aten.silu.out(_tensor(hidden), out=_tensor(out))
            np.multiply(out, np.float32(1 / QUICK_GELU), out=out)
        else:
            aten.gelu.out(_tensor(hidden), out=_tensor(out))

    def backward(self, grad: Array, hidden: Array) -> None:
        """grad becomes that of hidden."""
        g = _tensor(grad)
        if self._quick:
            aten.silu_backward.grad_input(g, _tensor(hidden), grad_input=g)
        else:
            aten.gelu_backward.grad_input(g, _tensor(hidden), grad_input=g)


def attend(q: Array, kv: Array, blocks: Sequence[Block], weights: Sequence[Array], out: Array) -> None:
    """Attention, block by block.

    Args:
        q: (H, d, queries), scaled by 1 / sqrt(d).
        kv: (2, H, d, M).
        blocks: of the chunk.
        weights: (H, R, K) each, filled and to be kept for `attend_backward`.
        out: (H, d, queries), filled.
    """
    for block, soft in zip(blocks, weights, strict=True):
        k, v = block.gather(kv)  # (H, d, K)
        np.matmul(q[..., block.queries].swapaxes(1, 2), k, out=soft)
        np.add(soft, block.mask, out=soft)
        torch.softmax(_tensor(soft), -1, out=_tensor(soft))
        np.matmul(v, soft.swapaxes(1, 2), out=out[..., block.queries])


def attend_backward(
    grad: Array, q: Array, kv: Array, blocks: Sequence[Block], weights: Sequence[Array], dq: Array, dkv: Array
) -> None:
    """Gradients dq (H, d, queries) and dkv (2, H, d, M), filled, for grad (H, d, queries) of the output."""
    for block, soft in zip(blocks, weights, strict=True):
        g, k_v = grad[..., block.queries], block.gather(kv)  # (H, d, R), (2, H, d, K)
        scores = np.matmul(g.swapaxes(1, 2), k_v[1])  # (H, R, K)
        aten._softmax_backward_data.out(_tensor(scores), _tensor(soft), -1, torch.float32, grad_input=_tensor(scores))
        np.matmul(k_v[0], scores.swapaxes(1, 2), out=dq[..., block.queries])
        parts = np.empty_like(k_v)
        np.matmul(q[..., block.queries], scores, out=parts[0])
        np.matmul(g, soft, out=parts[1])
        block.scatter(parts, dkv)


def _tensor(x: Array) -> Tensor:
    return torch.from_numpy(x)
