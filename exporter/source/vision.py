"""Which image towers are CLIP's vision transformer, the one that takes prompts, and what it is made of.

All others are exported too, as graphs that can only be run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_qprompt.backbone import VisionConfig

PREFIXES = ("conv1.", "class_embedding", "positional_embedding", "ln_pre.", "transformer.resblocks.", "ln_post.", "proj")
EXACT_GELU = "none"  # torch's name for no approximation


def vision_config(tower: Any) -> VisionConfig | None:
    """The configuration of open_clip's own VisionTransformer in its plain form, else None.

    Args:
        tower: any image tower of open_clip.
    """
    if type(tower).__name__ != "VisionTransformer" or not _is_plain(tower):
        return None
    blocks = tower.transformer.resblocks
    activation = _activation(blocks[0].mlp.gelu)
    if activation is None or not all(_is_plain_block(block) for block in blocks):
        return None
    width, heads, patch = tower.ln_pre.weight.shape[0], blocks[0].attn.num_heads, tower.patch_size[0]
    return VisionConfig(width, len(blocks), heads, patch, activation, tower.ln_pre.eps)


def vision_tensors(tower: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """The tower's weights under open_clip's names, without "visual."."""
    return {name: tensor.numpy() for name, tensor in tower.state_dict().items() if name.startswith(PREFIXES)}


def _is_plain(tower: Any) -> bool:
    """One class token, pooled by itself; a LayerNorm before and after; square patches."""
    pooled = tower.attn_pool is None and tower.pool_type == "tok" and not tower.output_tokens
    square = tower.patch_size[0] == tower.patch_size[1] and tower.image_size[0] == tower.image_size[1]
    return pooled and square and isinstance(tower.ln_pre, torch.nn.LayerNorm) and tower.proj is not None


def _is_plain_block(block: Any) -> bool:
    """No layer scale, no normalisation inside."""
    scaled = not isinstance(block.ls_1, torch.nn.Identity) or not isinstance(block.ls_2, torch.nn.Identity)
    return type(block).__name__ == "ResidualAttentionBlock" and not scaled


def _activation(layer: Any) -> str | None:
    if type(layer).__name__ == "QuickGELU":
        return "quick_gelu"
    exact = isinstance(layer, torch.nn.GELU) and layer.approximate == EXACT_GELU
    return "gelu" if exact else None
