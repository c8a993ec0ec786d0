"""A ViT-B/32 with random weights, exported as `edge-qprompt export` would: what speed is measured on without a network."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from edge_qprompt.photos.dataset import load_dataset
from exporter.export import export
from exporter.photos import DEMO
from exporter.request import Request
from exporter.source import import_open_clip, load


def random_vit_b_32(folder: Path, *, int8: bool = False) -> Path:
    """The backbone folder, made inside `folder`."""
    weights, target = folder / "ViT-B-32-random.pt", folder / "vit-b-32"
    torch.manual_seed(0)
    torch.save(import_open_clip().create_model("ViT-B-32", pretrained=None).state_dict(), weights)
    photos = load_dataset(DEMO)
    chosen = photos.train.paths[:: max(1, len(photos.train.paths) // 16)][:16]

    def report(text: str) -> None:
        print(text, file=sys.stderr)

    source = load(Request("ViT-B-32", checkpoint=weights))
    export(source, target, chosen, photos.names, int8=int8, replace=False, report=report, warn=report)
    weights.unlink()
    return target
