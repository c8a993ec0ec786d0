"""A frozen residual attention block of CLIP's towers, text and image alike, and what LoRA adds to it.

Weights never get a gradient. In a quantized tower, products are of rounded weights and activations (`fake_quant`).
Source of the architecture: CLIP (arXiv 2103.00020) as in open_clip.
Symbols: W width, H heads, d = W / H, T queries, S keys, r rank of an addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.backbone import Product, Range, TextConfig, VisionConfig, Weights
from edge_qprompt.learn.towers.fake_quant import by_layer, rounded, rounded_weight

PREFIX = "transformer.resblocks"  # of the names of blocks
QUICK_GELU = 1.702
QKV = range(3)


@dataclass(frozen=True)
class Linear:
    """A frozen x W^T + b, of x in a range where there is one; the product in bfloat16 where the weight is."""

    weight: Tensor
    bias: Tensor
    input: Range | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Any leading shape."""
        if self.weight.dtype is torch.bfloat16:
            return F.linear(x.bfloat16(), self.weight).float() + self.bias
        return F.linear(rounded(x, self.input), self.weight, self.bias)

    def rows(self, start: int, end: int) -> Linear:
        """The part that makes outputs start to end."""
        return Linear(self.weight[start:end], self.bias[start:end], self.input)

    def in_bfloat16(self) -> Linear:
        """The same with its weight in bfloat16; the bias stays."""
        return replace(self, weight=self.weight.bfloat16())


@dataclass(frozen=True)
class Attention:
    """softmax(q k^T / sqrt(d)) v.

    Attributes:
        q, k, mix, v: ranges of what is multiplied: q over the root, k, the softmax, v; None stays in float.
    """

    q: Range | None = None
    k: Range | None = None
    mix: Range | None = None
    v: Range | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mixed values.

        Args:
            q: (..., T, d).
            k, v: (..., S, d).
            mask: (..., T, S), added to the scores: 0 where a query sees a key, else -inf; None where all see all.

        Returns:
            (..., T, d).
        """
        if self == Attention():
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        scores = rounded(q * q.shape[-1] ** -0.5, self.q) @ rounded(k, self.k).transpose(-1, -2)  # (..., T, S)
        if mask is not None:
            scores = scores + mask
        return rounded(scores.softmax(dim=-1), self.mix) @ rounded(v, self.v)


@dataclass(frozen=True)
class LayerNorm:
    """A frozen LayerNorm over the last axis."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Any leading shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class LowRankQKV:
    """What LoRA (arXiv 2106.09685) adds to the q, k and v of one layer.

    Attributes:
        down: (3, r, W), with a gradient.
        up: (3, W, r), the scale in it, likewise.
        dropout: share of its input that is dropped, drawn for q, k and v apart; 0 outside of learning.
        draws: of the dropout.
    """

    down: Tensor
    up: Tensor
    dropout: float = 0.0
    draws: torch.Generator | None = None

    def __call__(self, x: Tensor, parts: range) -> Tensor:
        """(..., W) -> (..., len(parts) W)."""
        return torch.cat([F.linear(F.linear(self._dropped(x), self.down[i]), self.up[i]) for i in parts], dim=-1)

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.dropout:
            return x
        kept = torch.rand(x.shape, generator=self.draws) >= self.dropout
        return x * kept / (1 - self.dropout)


@dataclass(frozen=True)
class Block:
    """One residual attention block."""

    ln_1: LayerNorm
    qkv: Linear
    attend: Attention
    out: Linear
    ln_2: LayerNorm
    fc: Linear
    proj: Linear
    activation: str

    def in_bfloat16(self) -> Block:
        """The same with its products in bfloat16, but for attention's."""
        low = {name: getattr(self, name).in_bfloat16() for name in ("qkv", "out", "fc", "proj")}
        return replace(self, **low)

    def project(self, h: Tensor, low: LowRankQKV | None = None, parts: range = QKV) -> Tensor:
        """Those of q, k and v that `parts` says, side by side, of the first norm's output: (..., W) -> (..., len(parts) W)."""
        width = h.shape[-1]
        out = self.qkv.rows(parts.start * width, parts.stop * width)(h)
        return out if low is None else out + low(h, parts)

    def mlp(self, x: Tensor) -> Tensor:
        """x + MLP(LN(x)), any leading shape."""
        h = self.fc(self.ln_2(x))
        h = F.gelu(h) if self.activation == "gelu" else h * torch.sigmoid(QUICK_GELU * h)
        return x + self.proj(h)


@dataclass(frozen=True)
class Reader:
    """Reads a tower's parts from its weights.

    Attributes:
        weights: an open text.safetensors or image.safetensors.
        config: of that tower.
        quantized: its products; none in float.
    """

    weights: Weights
    config: TextConfig | VisionConfig
    quantized: Sequence[Product] = ()

    def tensor(self, name: str) -> Tensor:
        """As float32, without a gradient."""
        return torch.from_numpy(self.weights.tensor(name))

    def layer_norm(self, prefix: str) -> LayerNorm:
        """PREFIX.weight and PREFIX.bias."""
        return LayerNorm(self.tensor(f"{prefix}.weight"), self.tensor(f"{prefix}.bias"), self.config.layer_norm_eps)

    def blocks(self) -> list[Block]:
        """All layers.

        Raises:
            BackboneError: `quantized` is of another tower.
        """
        layers = by_layer(self.quantized, self.config.layers)
        return [self._block(f"{PREFIX}.{i}", *products) for i, products in enumerate(layers)]

    def _block(
        self, prefix: str, qkv: Product, scores: Product, context: Product, out: Product, fc: Product, proj: Product
    ) -> Block:
        return Block(
            self.layer_norm(f"{prefix}.ln_1"),
            self._linear(f"{prefix}.attn.in_proj_", qkv),
            Attention(*scores.inputs, *context.inputs),
            self._linear(f"{prefix}.attn.out_proj.", out),
            self.layer_norm(f"{prefix}.ln_2"),
            self._linear(f"{prefix}.mlp.c_fc.", fc),
            self._linear(f"{prefix}.mlp.c_proj.", proj),
            self.config.activation,
        )

    def _linear(self, prefix: str, product: Product) -> Linear:
        weight = rounded_weight(self.tensor(f"{prefix}weight"), product.weight_bits)
        return Linear(weight, self.tensor(f"{prefix}bias"), product.inputs[0])
