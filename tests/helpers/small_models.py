"""Random-weight CLIP models, small enough to export in seconds, as files that a user would have."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from exporter.source.source import import_open_clip

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
VIT = {
    "embed_dim": 48,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": TEXT,
}
RESNET = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "head_width": 32},
    "text_cfg": TEXT,
}
TIMM = {  # CustomTextCLIP, which keeps its text tower apart
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {"image_size": 64, "timm_model_name": "convnext_atto", "timm_pool": "avg", "timm_proj": "linear"},
    "text_cfg": TEXT,
}


def build(config: dict[str, Any], seed: int = 0) -> Any:
    """An open_clip model with random weights that all matter: no dead branches, no unit statistics."""
    open_clip = import_open_clip()
    settings = copy.deepcopy(config)
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    torch.manual_seed(seed)
    model = kind(**settings).eval().requires_grad_(False)
    for name, tensor in model.state_dict().items():
        if name.endswith("bn3.weight"):  # zero at first, the branch would be dead
            tensor.fill_(1.0)
        elif name.endswith("gamma"):  # layer scale of 1e-6, the same
            tensor.fill_(0.5)
    _settle_batch_norms(model.visual)
    return model


def _settle_batch_norms(tower: Any) -> None:
    """Statistics of what the weights really make, or all photos end in nearly the same feature."""
    norms = [module for module in tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the plain mean
        size = tower.image_size
        tower.train()(torch.rand(16, 3, 1, 1) * 4 - 2 + torch.randn(16, 3, size, size).cumsum(-1) / 5)
        tower.eval()


def save(folder: Path, config: dict[str, Any], model: Any, suffix: str = ".pt") -> list[str]:
    """Write weights and configuration into a folder; the arguments that export them."""
    weights, settings = folder / f"weights{suffix}", folder / "config.json"
    state = model.state_dict()
    if suffix == ".safetensors":
        save_file(state, weights)
    elif suffix == ".pt":  # as open_clip's training leaves it
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, weights)
    else:
        torch.save(state, weights)
    settings.write_text(json.dumps(config))
    return ["tiny", "--checkpoint", str(weights), "--model-config", str(settings)]
