"""Frozen pieces of a tower that hand their gradient on to their input, feature-major, into given buffers.

Activations are (features, columns) float32. Elementwise work and products are numpy's: its OpenBLAS
is 5 to 10 % faster at these shapes than the MKL inside torch, and needs no transposed copy of a weight
(docs/adr/0006-step.md). What numpy lacks (GELU, softmax, bfloat16) is torch's, on the same memory.

Symbols: W width, M columns, H heads of one thread, d features of a head; of attention, see `chunk`:
P columns of the prefix, B windows of R queries and K keys.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_qprompt.learn.step.chunk import Windows
from edge_qprompt.learn.towers.block import QUICK_GELU

Array = NDArray[np.float32]
aten = torch.ops.aten


class Norm:
    """LayerNorm over the rows of (W, M), but for gain and bias, which the next product takes in (`fold`).

    Args:
        width: W.
        gain, bias: (W,).
        eps: added to the variance.
        scale: another factor on the output of that product, which the gradient does not get; see `Activation`.
    """

    def __init__(self, gain: Array, bias: Array, eps: float, scale: float = 1.0) -> None:
        self._gain, self._bias, self._eps, self._scale = gain, bias, np.float32(eps), scale
        self._mean = np.full((1, len(gain)), 1 / len(gain), np.float32)

    def fold(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """Weight (out, W) and bias (out,) of the next product, with what this norm leaves out.

        Rows of the weight are centred: the norm's output has mean 0, so the product stays what it is, and
        its `backward` gives a gradient of mean 0, which is one step of the norm's own `backward`.
        """
        scale = np.float32(self._scale)
        folded = weight * (self._gain * scale)
        folded -= folded.mean(1, keepdims=True)
        return folded, (bias + weight @ self._bias) * scale

    def forward(self, x: Array, normal: Array, rstd: Array, spare: Array) -> None:
        """x (W, M) -> normal (W, M), the output, and rstd (1, M), kept for backward; spare (W, M) is overwritten."""
        np.matmul(self._mean, x, out=rstd)
        np.subtract(x, rstd, out=normal)
        np.multiply(normal, normal, out=spare)
        np.matmul(self._mean, spare, out=rstd)
        np.add(rstd, self._eps, out=rstd)
        np.divide(np.float32(1), np.sqrt(rstd, out=rstd), out=rstd)
        np.multiply(normal, rstd, out=normal)

    def backward(self, grad: Array, normal: Array, rstd: Array, into: Array, spare: Array) -> None:
        """into (W, M) += gradient of x; grad (W, M), that of normal, of mean 0, and spare (W, M) are overwritten."""
        np.multiply(grad, normal, out=spare)
        inner = self._mean @ spare  # (1, M)
        g, total = _tensor(grad), _tensor(into)
        torch.addcmul(g, _tensor(normal), _tensor(inner), value=-1, out=g)
        torch.addcmul(total, g, _tensor(rstd), value=1 / self._scale, out=total)


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

    QuickGELU(u) = SiLU(1.702 u) / 1.702. The norm in front has the factor before, and leaves it out of its
    gradient, as the division behind is left out of this gradient: the two cancel.
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


def attend(q: Array, kv: Array, prefix: int, windows: Windows, weights: Array, out: Array) -> None:
    """Attention.

    Args:
        q: (H, d, X), scaled by 1 / sqrt(d); X = B R queries.
        kv: (2, H, d, margin + M).
        prefix: P.
        windows: what the queries look at.
        weights: (H, B, R, P + K), filled and to be kept for `attend_backward`.
        out: (H, d, X), filled.
    """
    shared, (k, v) = kv[..., windows.margin : windows.margin + prefix], windows.gather(kv)
    soft = _rows(weights)
    np.matmul(q.swapaxes(1, 2), shared[0], out=soft[..., :prefix])
    np.matmul(_split(q, weights).swapaxes(2, 3), k, out=weights[..., prefix:])
    np.add(weights, windows.mask, out=weights)
    torch.softmax(_tensor(weights), -1, out=_tensor(weights))
    np.matmul(v, weights[..., prefix:].swapaxes(2, 3), out=_split(out, weights))
    np.add(out, shared[1] @ soft[..., :prefix].swapaxes(1, 2), out=out)


def attend_backward(
    grad: Array, q: Array, kv: Array, prefix: int, windows: Windows, weights: Array, dq: Array, dkv: Array
) -> None:
    """Gradients dq (H, d, X) and dkv (2, H, d, margin + M), filled, for grad (H, d, X) of the output."""
    shared, (k, v) = kv[..., windows.margin : windows.margin + prefix], windows.gather(kv)
    g, soft = _split(grad, weights), _rows(weights)
    scores = np.empty_like(weights)
    rows = _rows(scores)
    np.matmul(grad.swapaxes(1, 2), shared[1], out=rows[..., :prefix])
    np.matmul(g.swapaxes(2, 3), v, out=scores[..., prefix:])
    aten._softmax_backward_data.out(_tensor(scores), _tensor(weights), -1, torch.float32, grad_input=_tensor(scores))
    np.matmul(k, scores[..., prefix:].swapaxes(2, 3), out=_split(dq, weights))
    np.add(dq, shared[0] @ rows[..., :prefix].swapaxes(1, 2), out=dq)
    parts = np.empty((2, *k.shape), np.float32)
    np.matmul(_split(q, weights), scores[..., prefix:], out=parts[0])
    np.matmul(g, weights[..., prefix:], out=parts[1])
    windows.scatter(parts, dkv)
    into = dkv[..., windows.margin : windows.margin + prefix]
    into[0] += q @ rows[..., :prefix]
    into[1] += grad @ soft[..., :prefix]


def _rows(weights: Array) -> Array:
    """(H, B, R, P + K) as (H, X, P + K)."""
    return weights.reshape(len(weights), -1, weights.shape[-1])


def _split(x: Array, weights: Array) -> Array:
    """(H, d, X) as (H, B, d, R)."""
    return x.reshape(*x.shape[:2], *weights.shape[1:3]).swapaxes(1, 2)


def _tensor(x: Array) -> Tensor:
    return torch.from_numpy(x)
