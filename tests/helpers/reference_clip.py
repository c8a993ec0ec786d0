"""open_clip's own modules with learned tokens and low-rank changes put in, written down from the papers.

MaPLe (arXiv 2210.03117), equations 4 to 8 and the released code; LoRA (arXiv 2106.09685), equation 3, as a change of the
weights. Symbols: B photos, C prompts, T tokens of the full context, n learned tokens, W width, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

NAME = "attn.in_proj_weight"


def image_features(model: Any, pixels: Tensor, prompts: Sequence[Tensor] = (), changes: Sequence[Tensor] = ()) -> Tensor:
    """(B, D) of pixels (B, 3, S, S); prompts (n, W) a layer, changes (3W, W) a layer."""
    tower = model.visual
    x = tower.conv1(pixels).flatten(2).permute(0, 2, 1)
    x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], dim=1) + tower.positional_embedding
    plain = x.shape[1]
    if prompts:
        x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], dim=1)

    def before(layer: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :plain], prompts[layer].expand(len(x), -1, -1)], 1) if 0 < layer < len(prompts) else x

    x = _through(tower.transformer, tower.ln_pre(x), before, changes, None)
    return F.normalize(tower.ln_post(x)[:, 0] @ tower.proj, dim=-1)


def text_features(
    model: Any, rows: Sequence[Sequence[int]], ctx: Tensor, deep: Sequence[Tensor] = (), changes: Sequence[Tensor] = ()
) -> Tensor:
    """(C, D) of learned tokens (n, W) and what follows them, token ids without SOT and EOT."""
    n, (sot, eot) = len(ctx), (49406, 49407)
    tokens = torch.zeros(len(rows), len(model.positional_embedding), dtype=torch.long)
    for line, row in zip(tokens, rows, strict=True):
        full = [sot, *[0] * n, *row, eot]
        line[: len(full)] = torch.tensor(full)
    x = model.token_embedding(tokens)
    x = torch.cat([x[:, :1], ctx.expand(len(rows), -1, -1), x[:, 1 + n :]], 1) + model.positional_embedding  # (C, T, W)

    def before(layer: int, x: Tensor) -> Tensor:
        if not 1 <= layer <= len(deep):
            return x
        return torch.cat([x[:, :1], deep[layer - 1].expand(len(x), -1, -1), x[:, 1 + n :]], 1)

    x = _through(model.transformer, x, before, changes, model.attn_mask)
    pooled = model.ln_final(x)[torch.arange(len(rows)), tokens.argmax(dim=-1)]
    return F.normalize(pooled @ model.text_projection, dim=-1)


def low_rank(down: Tensor, up: Tensor) -> list[Tensor]:
    """Changes (3W, W) of each layer, of (layers, 3, r, W) and (layers, 3, W, r)."""
    return [torch.cat([u @ d for d, u in zip(*layer, strict=True)]) for layer in zip(down, up, strict=True)]


def _through(
    transformer: Any, x: Tensor, before: Callable[[int, Tensor], Tensor], changes: Sequence[Tensor], mask: Tensor | None
) -> Tensor:
    for layer, block in enumerate(transformer.resblocks):
        weight = block.attn.in_proj_weight + (changes[layer] if changes else 0)
        x = functional_call(block, {NAME: weight}, (before(layer, x),), {"attn_mask": mask})
    return x
