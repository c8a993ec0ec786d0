"""The whole of `adapt` against the reference pipeline, on a random-weight ViT-B/32 and real photos.

    python benchmarks/end_to_end.py --data ../shared/datasets/eurosat ../shared/datasets/caltech101 --out docs/performance.md

Ours: photos on disk to a pack, nothing cached, by the same function as `edge-qprompt adapt`; the held-out check is left out on
both sides. The reference is CoOp as published, on the CPU: every epoch, every batch of 32 is read, cropped at random,
and encoded by open_clip's image tower in torch (frozen, no gradient), then the prompt makes an SGD step through open_clip's text
tower at 77 tokens a class. The same photos, classes, shots and epochs. The reference would run for days, so
some of its steps, interleaved over the data set's photos, are timed and multiplied by their number; ours is run whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import with_helpers  # noqa: F401  before what it makes importable
from reference_tower import VIT_B_32, Pair, random_pair
from timing import publish
from vit_b_32 import random_vit_b_32

from edge_qprompt import Backbone
from edge_qprompt.backbone.text import name_tokens
from edge_qprompt.learn.adapt import adapt
from edge_qprompt.learn.settings import AdaptSettings, LoopSettings
from edge_qprompt.photos.dataset import Dataset, load_dataset
from edge_qprompt.photos.photo import decode_photo, normalise, random_view, read_photo
from exporter.source import import_open_clip

N_CTX = 4
BATCH = 32


class Reference:
    """CoOp as published."""

    def __init__(self, data: Dataset, backbone: Backbone, pair: Pair) -> None:
        self._data, self._backbone, self._pair = data, backbone, pair
        self._image = import_open_clip().create_model("ViT-B-32", pretrained=None).visual.eval().requires_grad_(False)
        self._rows = name_tokens(pair.tokenizer, data.names, N_CTX)
        self._ctx = (torch.randn(N_CTX, VIT_B_32.width) * 0.02).requires_grad_()
        self._optimiser = torch.optim.SGD([self._ctx], 0.002, 0.9, weight_decay=5e-4)
        self._rng = np.random.default_rng(0)

    def step(self) -> float:
        """Seconds of one step on 32 photos chosen at random."""
        photos = self._data.train
        chosen = self._rng.choice(len(photos.paths), min(BATCH, len(photos.paths)), replace=False)
        start = time.perf_counter()
        preprocess = self._backbone.manifest.preprocess
        images = [decode_photo(read_photo(photos.paths[i]), "photo") for i in chosen]
        pixels = [normalise(random_view(image, preprocess, self._rng), preprocess) for image in images]
        with torch.no_grad():
            features = F.normalize(self._image(torch.from_numpy(np.stack(pixels))), dim=-1)
        labels = torch.tensor([photos.labels[i] for i in chosen])
        loss = F.cross_entropy(100 * features @ self._pair.reference_features(self._ctx, self._rows).T, labels)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return time.perf_counter() - start


def measure(folder: Path, backbone: Backbone, pair: Pair, shots: int, epochs: int, steps: int) -> dict[str, Any]:
    """One data set."""
    data = load_dataset(folder)
    few, _ = data.few_shot(shots, 1)
    data = dataclasses.replace(data, train=few, test=None)
    reference = Reference(data, backbone, pair)
    reference.step()  # warms up
    seconds = [reference.step() for _ in range(steps)]
    start = time.perf_counter()
    result = adapt(backbone, data, AdaptSettings(shots=shots, loop=LoopSettings(epochs=epochs)))
    ours = time.perf_counter() - start
    seconds += [reference.step() for _ in range(steps)]  # before and after: the machine's mood changes
    count = epochs * -(-len(few) // BATCH)
    return {
        "data": folder.name,
        "photos": len(few),
        "classes": len(data.names),
        "ours": ours,
        "stages": result.seconds,
        "steps": result.run.steps,
        "reference_steps": count,
        "reference_step": statistics.median(seconds),
        "reference": count * statistics.median(seconds),
    }


def main() -> None:
    """Measure each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--vit-b-32", type=Path, help="an exported ViT-B/32; without it, one with random weights is made")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=2, help="steps of the reference that are timed, before and after ours")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["EDGE_QPROMPT_CACHE"] = f"{temporary}/cache"
        backbone = Backbone.open(args.vit_b_32 or random_vit_b_32(Path(temporary)))
        pair = random_pair(VIT_B_32, Path(temporary))
        rows = []
        for folder in args.data:
            rows.append(measure(folder, backbone, pair, args.shots, args.epochs, args.steps))
            print(rows[-1], file=sys.stderr)
    lines = [
        f"{args.shots} shots, {args.epochs} epochs.",
        "",
        "| data set | classes, photos | ours | of which encoding, learning | reference: steps x median | reference | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        stages = ", ".join(f"{r['stages'][stage]:.0f} s" for stage in ("encode", "learn"))
        lines.append(
            f"| {r['data']} | {r['classes']}, {r['photos']} | {r['ours']:.0f} s in {r['steps']} steps | {stages} "
            f"| {r['reference_steps']} x {r['reference_step']:.1f} s | {r['reference'] / 3600:.1f} h "
            f"| **{r['reference'] / r['ours']:.0f}x** |"
        )
    publish("end_to_end", lines, "torch", "onnxruntime", out=args.out)


if __name__ == "__main__":
    main()
