"""The frozen image tower of CLIP, a vision transformer, with a gradient to prompts or low-rank additions.

Weights never get a gradient, and nothing before the first prompt or addition is kept for one. The last layer
computes queries and MLP for the class token alone: nothing else of it is read. Source of the architecture:
CLIP (arXiv 2103.00020) as in open_clip; of the prompts: MaPLe (arXiv 2210.03117), section 3.2.

Symbols: B photos, S pixels a side, G patches, n learned tokens, T = 1 + G + n tokens in all, U width, H heads,
d = U / H, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.backbone import Product, VisionConfig, Weights
from edge_qprompt.learn.towers.block import Block, LowRankQKV, Reader


class VisionTower:
    """Frozen image tower in float32.

    Args:
        weights: an open image.safetensors.
        config: of the tower.
        quantized: its products, in the graph's order; none in float.

    Raises:
        BackboneError: `quantized` is of another tower.
    """

    def __init__(self, weights: Weights, config: VisionConfig, quantized: Sequence[Product] = ()) -> None:
        self.config = config
        reader = Reader(weights, config, quantized)
        self.patches = reader.tensor("conv1.weight")  # (U, 3, p, p)
        self.positions = reader.tensor("positional_embedding")  # (1 + G, U)
        self.class_token = reader.tensor("class_embedding") + self.positions[0]  # (U,)
        self.ln_pre = reader.layer_norm("ln_pre")
        self.blocks = reader.blocks()
        self.ln_post = reader.layer_norm("ln_post")
        self.projection = reader.tensor("proj")  # (U, D)

    def __call__(self, pixels: Tensor, prompts: Sequence[Tensor] = (), low: Sequence[LowRankQKV | None] = ()) -> Tensor:
        """Image features.

        Args:
            pixels: (B, 3, S, S), normalised.
            prompts: (n, U) each: those appended to the patches, then those that stand in their place before
                layers 1, 2, ...
            low: what is added to each layer's q, k and v.

        Returns:
            (B, D), unit length, with a gradient to prompts and low.
        """
        x = self._tokens(pixels)  # (B, 1 + G, U)
        if prompts:
            x = _appended(x, prompts[0])  # (B, T, U)
        x = self.ln_pre(x)
        *layers, last = zip(self.blocks, low or [None] * len(self.blocks), strict=True)
        for i, (block, more) in enumerate(layers):
            x = self._layer(block, more, _replaced(x, prompts, i))
        pooled = self._last_layer(*last, _replaced(x, prompts, len(layers)))  # (B, U)
        return F.normalize(self.ln_post(pooled) @ self.projection, dim=-1)

    def _tokens(self, pixels: Tensor) -> Tensor:
        patches = F.conv2d(pixels, self.patches, stride=self.config.patch).flatten(2).transpose(1, 2)  # (B, G, U)
        first = self.class_token.expand(len(pixels), 1, -1)  # (B, 1, U)
        return torch.cat([first, patches + self.positions[1:]], dim=1)

    def _layer(self, block: Block, low: LowRankQKV | None, x: Tensor) -> Tensor:
        q, k, v = self._split(block.project(block.ln_1(x), low), 3)  # (B, H, T, d)
        mixed = block.attend(q, k, v).transpose(1, 2).flatten(2)  # (B, T, U)
        return block.mlp(x + block.out(mixed))

    def _last_layer(self, block: Block, low: LowRankQKV | None, x: Tensor) -> Tensor:
        """The block's output at the class token only, (B, U)."""
        h = block.ln_1(x)
        (q,) = self._split(block.project(h[:, :1], low, range(1)), 1)  # (B, H, 1, d)
        k, v = self._split(block.project(h, low, range(1, 3)), 2)  # (B, H, T, d)
        mixed = block.attend(q, k, v).flatten(1)  # (B, U)
        return block.mlp(x[:, 0] + block.out(mixed))

    def _split(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        heads = x.reshape(*x.shape[:2], count, self.config.heads, -1)  # (B, T, count, H, d)
        return tuple(heads.permute(2, 0, 3, 1, 4).unbind(0))  # count x (B, H, T, d)


def _appended(x: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([x, tokens.expand(len(x), -1, -1)], dim=1)


def _replaced(x: Tensor, prompts: Sequence[Tensor], layer: int) -> Tensor:
    """What a layer gets: x (B, T, U), with its own tokens in place of the last n, if it has some."""
    if not 1 <= layer < len(prompts):
        return x
    return _appended(x[:, : x.shape[1] - len(prompts[layer])], prompts[layer])
