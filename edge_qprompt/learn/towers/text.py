"""The frozen text tower with a gradient to the prompt, at the cost of the class names alone.

A CoOp step costs one pass of the text tower over C prompts "SOT ctx name . EOT". The reference
runs 77 tokens a class; this runs only what differs between classes, and gets the same numbers:

* stop at EOT: the tower is causal, so what follows EOT is never seen;
* many class names share a sequence, one behind the other, and its prefix, SOT and ctx; a mask keeps
  them apart: each sees the prefix and itself, and has the positions that it has alone;
* the last layer computes queries and MLP for EOT alone: nothing else of it is read.

Weights never get a gradient. Source of the architecture: CLIP (arXiv 2103.00020) as in open_clip,
against which values and gradients are tested.

Symbols: C classes, n learned tokens, P = 1 + n tokens of the prefix, B sequences of T tokens,
E classes a sequence at most, W width, H heads, d = W / H, D dimensions of a feature.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.backbone import Product, TextConfig, Weights
from edge_qprompt.learn.threads import one_thread_each
from edge_qprompt.learn.towers.block import Block, LowRankQKV, Reader

KEPT = (
    16  # floats of the width that a layer keeps of a token for the gradient: 10 with GELU, 14 with QuickGELU, and a passing few
)
SEQUENCE = 128  # tokens, about: with more, attention to what is masked costs; with fewer, the prefix is computed more often


@dataclass(frozen=True)
class Suffixes:
    """What stands behind the prefix, for all classes.

    Attributes:
        vectors: (B, T - P, W), token vectors with their positions added; zeros fill the ends.
        mask: (B, 1, T, T), 0 where a token (row) sees another (column), else -inf.
        eot: (B, E) where the EOT tokens are in a sequence; 0 fills the ends.
        classes: (C,) where the classes are among (B E).
    """

    vectors: Tensor
    mask: Tensor
    eot: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def part(self, start: int, end: int) -> Suffixes:
        """Some of the sequences."""
        most = self.eot.shape[1]
        inside = (self.classes >= start * most) & (self.classes < end * most)
        rows = slice(start, end)
        return replace(
            self,
            vectors=self.vectors[rows],
            mask=self.mask[rows],
            eot=self.eot[rows],
            classes=self.classes[inside] - start * most,
        )


class TextTower:
    """Frozen text tower in float32.

    Args:
        weights: an open text.safetensors.
        config: of the tower.
        quantized: its products, in the graph's order; none in float.

    Raises:
        BackboneError: `quantized` is of another tower.
    """

    def __init__(self, weights: Weights, config: TextConfig, quantized: Sequence[Product] = ()) -> None:
        self.config = config
        self.is_quantized = bool(quantized)
        self._weights = weights
        reader = Reader(weights, config, quantized)
        self.blocks = reader.blocks()
        self.ln_final = reader.layer_norm("ln_final")
        self.projection = reader.tensor("text_projection")  # (W, D)
        self.positions = reader.tensor("positional_embedding")  # (context, W)
        self.sot = self.token_vectors([config.sot]) + self.positions[:1]  # (1, W)

    def work(self, rows: Sequence[Sequence[int]], n_ctx: int) -> float:
        """Floating-point operations of a forward and a backward pass, products with weights alone; rows as of `suffixes`."""
        weights = sum(linear.weight.numel() for b in self.blocks for linear in (b.qkv, b.out, b.fc, b.proj))
        return 2.0 * 2.0 * weights * (1 + n_ctx + sum(len(row) + 1 for row in rows))

    def kept_bytes(self, suffixes: Suffixes) -> int:
        """Memory that one sequence takes until its gradient is there."""
        return 4 * KEPT * self.config.width * len(self.blocks) * suffixes.mask.shape[-1]

    def in_bfloat16(self) -> TextTower:
        """The same tower with the products of its blocks in bfloat16."""
        low = copy.copy(self)
        low.blocks = [block.in_bfloat16() for block in self.blocks]
        return low

    def token_vectors(self, ids: Sequence[int]) -> Tensor:
        """Rows of the token table without positions, (len(ids), W)."""
        with one_thread_each():  # where the table is a product, its last bits would depend on the number of cores
            return torch.from_numpy(self._weights.token_vectors(ids))

    def suffixes(self, rows: Sequence[Sequence[int]], n_ctx: int, multiple: int = 1) -> Suffixes:
        """Pack what follows SOT and n_ctx learned tokens.

        Args:
            rows: token ids of each class without SOT and EOT; checked to fit by the tokenizer.
            n_ctx: learned tokens.
            multiple: of how many sequences there shall be, where there are classes enough.
        """
        prefix = 1 + n_ctx
        names = [[*row, self.config.eot] for row in rows]
        parts = _cut([len(name) for name in names], SEQUENCE - prefix, multiple)
        most, length = max(map(len, parts)), max(sum(len(names[i]) for i in part) for part in parts)
        vectors = torch.zeros(len(parts), length, self.config.width)
        owner = np.full((len(parts), prefix + length), -1)  # the class of each token; -1 is the prefix, -2 nobody
        owner[:, prefix:] = -2
        eot = np.zeros((len(parts), most), np.int64)
        for b, part in enumerate(parts):
            ids = [token for i in part for token in names[i]]
            places = np.concatenate([np.arange(len(names[i])) for i in part]) + prefix
            vectors[b, : len(ids)] = self.token_vectors(ids) + self.positions[places]
            owner[b, prefix : prefix + len(ids)] = np.repeat(part, [len(names[i]) for i in part])
            eot[b, : len(part)] = prefix - 1 + np.cumsum([len(names[i]) for i in part])
        classes = np.concatenate([b * most + np.arange(len(part)) for b, part in enumerate(parts)])
        return Suffixes(vectors, _mask(torch.from_numpy(owner)), torch.from_numpy(eot), torch.from_numpy(classes))

    def __call__(
        self, ctx: Tensor, suffixes: Suffixes, deep: Sequence[Tensor] = (), low: Sequence[LowRankQKV | None] = ()
    ) -> Tensor:
        """Class features.

        Args:
            ctx: (n, W) learned tokens.
            suffixes: made for the same n.
            deep: (n, W) each, what stands in their place before layers 1, 2, ...: MaPLe (arXiv 2210.03117), section 3.2.
            low: what is added to each layer's q, k and v.

        Returns:
            (C, D), unit length, in the caller's order of classes, with a gradient to ctx, deep and low. A dropout
            of `low` falls on the prefix once for all classes of a sequence.
        """
        prefix = torch.cat([self.sot, ctx + self.positions[1 : 1 + len(ctx)]])  # (P, W)
        x = torch.cat([prefix.expand(len(suffixes), -1, -1), suffixes.vectors], dim=1)  # (B, T, W)
        *layers, last = zip(self.blocks, low or [None] * len(self.blocks), strict=True)
        for i, (block, more) in enumerate(layers):
            x = self._layer(block, more, _replaced(x, deep, i), suffixes.mask)
        pooled = self._last_layer(*last, _replaced(x, deep, len(layers)), suffixes)  # (B, E, W)
        features = self.ln_final(pooled.flatten(0, 1)[suffixes.classes]) @ self.projection  # (C, D)
        return F.normalize(features, dim=-1)

    def _layer(self, block: Block, low: LowRankQKV | None, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self._split(block.project(block.ln_1(x), low), 3)  # (B, H, T, d)
        mixed = block.attend(q, k, v, mask).transpose(1, 2).flatten(2)  # (B, T, W)
        return block.mlp(x + block.out(mixed))

    def _last_layer(self, block: Block, low: LowRankQKV | None, x: Tensor, suffixes: Suffixes) -> Tensor:
        """The block's output at EOT only, (B, E, W)."""
        rows = torch.arange(len(x))[:, None]  # (B, 1)
        h = block.ln_1(x)
        (q,) = self._split(block.project(h[rows, suffixes.eot], low, range(1)), 1)  # (B, H, E, d)
        k, v = self._split(block.project(h, low, range(1, 3)), 2)  # (B, H, T, d)
        mask = suffixes.mask[rows, 0, suffixes.eot][:, None]  # (B, 1, E, T)
        mixed = block.attend(q, k, v, mask).transpose(1, 2).flatten(2)  # (B, E, W)
        return block.mlp(x[rows, suffixes.eot] + block.out(mixed))

    def _split(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        heads = x.view(*x.shape[:2], count, self.config.heads, -1)  # (B, T, count, H, d)
        return tuple(heads.permute(2, 0, 3, 1, 4).unbind(0))  # count x (B, H, T, d)


def _cut(lengths: Sequence[int], room: int, multiple: int) -> list[range]:
    """Consecutive classes of each sequence: of about equal length, and not much above `room`."""
    ends = np.cumsum(lengths)
    count = multiple * math.ceil(ends[-1] / max(room, 1) / multiple)
    cuts = [0, *np.searchsorted(ends, ends[-1] * np.arange(1, count) / count).tolist(), len(lengths)]
    return [range(a, b) for a, b in pairwise(cuts) if b > a]


def _mask(owner: Tensor) -> Tensor:
    """(B, 1, T, T) of the classes (B, T) that tokens belong to, -1 in the prefix: causal, at the prefix and at the own class."""
    shared = owner[:, None, :] == -1
    own = owner[:, None, :] == owner[:, :, None]
    seen = (shared | own) & torch.ones(owner.shape[1], owner.shape[1], dtype=torch.bool).tril()
    return torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None]


def _replaced(x: Tensor, deep: Sequence[Tensor], layer: int) -> Tensor:
    """What a layer gets: x (B, T, W), with its own tokens in place of those at 1 to n, if it has some."""
    if not 1 <= layer <= len(deep):
        return x
    tokens = deep[layer - 1].expand(len(x), -1, -1)  # (B, n, W)
    return torch.cat([x[:, :1], tokens, x[:, 1 + tokens.shape[1] :]], dim=1)
