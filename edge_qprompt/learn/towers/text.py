"""The frozen text tower with a gradient to the prompt, at the cost of the class names alone.

A CoOp step costs one pass of the text tower over C prompts "SOT ctx name . EOT". The reference
runs 77 tokens a class; this runs only what differs between classes, and gets the same numbers:

* stop at EOT: the tower is causal, so what follows EOT is never seen;
* share the prefix: SOT and ctx come first and are the same for all classes, so their residual
  stream, keys and values are computed once;
* no padding: all other tokens of all classes stand in one matrix (M, W) for every linear layer,
  sorted by length so that the classes of one length are a contiguous view for attention;
* the last layer computes queries and MLP for EOT alone: nothing else of it is read.

Weights never get a gradient. Source of the architecture: CLIP (arXiv 2103.00020) as in open_clip,
against which values and gradients are tested.

Symbols: C classes, n learned tokens, P = 1 + n tokens of the prefix, M tokens of all suffixes,
L tokens of one suffix, W width, H heads, d = W / H, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.backbone import Product, TextConfig, Weights
from edge_qprompt.learn.step.threads import one_thread_each
from edge_qprompt.learn.towers.block import PREFIX, Block, LowRank, Reader


@dataclass(frozen=True)
class Group:
    """Classes with suffixes of one length: rows start to start + count * length of the suffix matrix."""

    start: int
    count: int
    length: int

    @property
    def end(self) -> int:
        """One past the last row."""
        return self.start + self.count * self.length


@dataclass(frozen=True)
class Suffixes:
    """What stands behind the prefix, for all classes, packed.

    Attributes:
        vectors: (M, W), token vectors with their positions added, classes sorted by length.
        groups: in row order.
        eot: (C,) rows of the EOT tokens, in the sorted order of the classes.
        order: (C,) such that features_sorted[order] is in the caller's order.
    """

    vectors: Tensor
    groups: tuple[Group, ...]
    eot: Tensor
    order: Tensor


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

    def work(self, suffixes: Suffixes, n_ctx: int) -> float:
        """Floating-point operations of one forward and backward pass, matrix products of the blocks only."""
        weights = sum(linear.weight.numel() for b in self.blocks for linear in (b.qkv, b.out, b.fc, b.proj))
        return 2.0 * 2.0 * weights * (1 + n_ctx + len(suffixes.vectors))

    def token_vectors(self, ids: Sequence[int]) -> Tensor:
        """Rows of the token table without positions, (len(ids), W)."""
        with one_thread_each():  # where the table is a product, its last bits would depend on the number of cores
            return torch.from_numpy(self._weights.token_vectors(ids))

    def suffixes(self, rows: Sequence[Sequence[int]], n_ctx: int) -> Suffixes:
        """Pack what follows SOT and n_ctx learned tokens.

        Args:
            rows: token ids of each class without SOT and EOT; checked to fit by the tokenizer.
            n_ctx: learned tokens.
        """
        full = [[*row, self.config.eot] for row in rows]
        sort = np.argsort([len(row) for row in full], kind="stable")
        lengths = np.array([len(full[i]) for i in sort])
        starts = np.cumsum(lengths) - lengths
        positions = np.concatenate([np.arange(length) for length in lengths]) + 1 + n_ctx
        vectors = self.token_vectors([token for i in sort for token in full[i]]) + self.positions[positions]
        kinds, firsts, counts = np.unique(lengths, return_index=True, return_counts=True)
        groups = (Group(int(starts[i]), int(n), int(length)) for length, i, n in zip(kinds, firsts, counts, strict=True))
        return Suffixes(vectors, tuple(groups), torch.from_numpy(starts + lengths - 1), torch.from_numpy(np.argsort(sort)))

    def __call__(
        self, ctx: Tensor, suffixes: Suffixes, deep: Sequence[Tensor] = (), low: Sequence[LowRank | None] = ()
    ) -> Tensor:
        """Class features.

        Args:
            ctx: (n, W) learned tokens.
            suffixes: made for the same n.
            deep: (n, W) each, what stands in their place before layers 1, 2, ...: MaPLe (arXiv 2210.03117), section 3.2.
            low: what is added to each layer's q, k and v.

        Returns:
            (C, D), unit length, in the caller's order of classes, with a gradient to ctx, deep and low. A dropout
            of `low` falls on the prefix once for all classes.
        """
        n_prefix = 1 + len(ctx)
        prefix = torch.cat([self.sot, ctx + self.positions[1:n_prefix]])  # (P, W)
        x = torch.cat([prefix, suffixes.vectors])  # (P + M, W)
        *layers, last = zip(self.blocks, low or [None] * len(self.blocks), strict=True)
        for i, (block, more) in enumerate(layers):
            x = self._layer(block, more, _replaced(x, deep, i), n_prefix, suffixes.groups)
        pooled = self._last_layer(*last, _replaced(x, deep, len(layers)), n_prefix, suffixes)  # (C, W)
        features = self.ln_final(pooled) @ self.projection  # (C, D)
        return F.normalize(features, dim=-1)[suffixes.order]

    def _layer(self, block: Block, low: LowRank | None, x: Tensor, n_prefix: int, groups: tuple[Group, ...]) -> Tensor:
        qkv = self._split(block.project(block.ln_1(x), low), 3)  # 3 x (P + M, H, d)
        q, k, v = qkv
        prefix = [t[:n_prefix].transpose(0, 1) for t in qkv]  # 3 x (H, P, d)
        mask = torch.ones(n_prefix, n_prefix, dtype=torch.bool).tril()
        mixed = block.attend(prefix[0], prefix[1], prefix[2], mask)  # (H, P, d)
        parts = [mixed.transpose(0, 1)]  # (P, H, d)
        for group in groups:
            span = slice(n_prefix + group.start, n_prefix + group.end)
            keys, values = self._behind(k, prefix[1], span, group), self._behind(v, prefix[2], span, group)
            queries = self._by_class(q[span], group)  # (c, H, L, d)
            mask = torch.ones(group.length, n_prefix + group.length, dtype=torch.bool).tril(n_prefix)
            mixed = block.attend(queries, keys, values, mask)  # (c, H, L, d)
            parts.append(mixed.transpose(1, 2).reshape(group.count * group.length, *q.shape[1:]))  # (c L, H, d)
        x = x + block.out(torch.cat(parts).flatten(1))  # (P + M, W)
        return block.mlp(x)

    def _last_layer(self, block: Block, low: LowRank | None, x: Tensor, n_prefix: int, suffixes: Suffixes) -> Tensor:
        """The block's output at EOT only, (C, W)."""
        rows = suffixes.eot + n_prefix
        h = block.ln_1(x)
        q = self._split(block.project(h[rows], low, range(1)), 1)[0]  # (C, H, d)
        k, v = self._split(block.project(h, low, range(1, 3)), 2)  # (P + M, H, d)
        prefix_k, prefix_v = k[:n_prefix].transpose(0, 1), v[:n_prefix].transpose(0, 1)  # (H, P, d)
        parts, done = [], 0
        for group in suffixes.groups:
            span = slice(n_prefix + group.start, n_prefix + group.end)
            keys, values = self._behind(k, prefix_k, span, group), self._behind(v, prefix_v, span, group)
            queries = q[done : done + group.count, :, None]  # (c, H, 1, d)
            done += group.count
            parts.append(block.attend(queries, keys, values)[:, :, 0])  # (c, H, d)
        return block.mlp(x[rows] + block.out(torch.cat(parts).flatten(1)))

    def _split(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        return x.view(len(x), count, self.config.heads, -1).unbind(1)  # count x (rows, H, d)

    def _behind(self, x: Tensor, prefix: Tensor, span: slice, group: Group) -> Tensor:
        """Keys or values of a group with the shared prefix before them, (c, H, P + L, d)."""
        shared = prefix[None].expand(group.count, -1, -1, -1)  # (c, H, P, d)
        return torch.cat([shared, self._by_class(x[span], group)], dim=2)

    def _by_class(self, x: Tensor, group: Group) -> Tensor:
        return x.view(group.count, group.length, *x.shape[1:]).transpose(1, 2)  # (c, H, L, d)

    def forget_copied(self) -> None:
        """Let the weights go that `rank.Layer` has copies of; they are read again if this tower is used itself."""
        for i in range(len(self.blocks)):
            for weight in ("attn.in_proj_weight", "mlp.c_fc.weight"):
                self._weights.forget(f"{PREFIX}.{i}.{weight}")


def _replaced(x: Tensor, deep: Sequence[Tensor], layer: int) -> Tensor:
    """What a layer gets: x (P + M, W), with its own tokens in place of those at 1 to n, if it has some."""
    if not 1 <= layer <= len(deep):
        return x
    tokens = deep[layer - 1]
    return torch.cat([x[:1], tokens, x[1 + len(tokens) :]])  # (P + M, W)
