"""Builds the folder of `vit-mini`, a small ViT to measure methods on that need one; it is not shipped.

    python -m recipes.vit_mini_views --photos ../shared/datasets --drawings openclipart/ --out views/
    python -m recipes.vit_mini --views views/ --out vit-mini/            two hours on one core

The image tower is open_clip's VisionTransformer, distilled from nano's without labels: its class token learns nano's feature
of the whole view, and each patch, through the same last layers, nano's feature of that place, which is worth many photos
where there are few (dense targets, as in token labelling, Jiang et al., arXiv 2104.10858). First at 112 pixels, where its
patches are nano's places one to one, then briefly at 160. The text tower is nano's.

Symbols: B views, S pixels a side, G x G patches, D dimensions of a feature, O x I a matrix.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from edge_qprompt import Backbone
from edge_qprompt.backbone import TOKENIZER, TOKENIZER_CONFIG, Manifest, PrecisionRecord, Preprocess, Session, image_onnx
from edge_qprompt.errors import ExportError
from edge_qprompt.learn import has_bfloat16
from edge_qprompt.photos import decode_photo, to_pixels
from exporter import folder
from exporter.graphs import write_image_graph
from exporter.source import import_open_clip, vision_config, vision_tensors
from recipes.nano import PHOTOS
from recipes.vit_mini_views import FEATURES, PIXELS

PATCH, WIDTH, LAYERS, HEAD_WIDTH, EMBED_DIM = 16, 192, 9, 64, 256
WEIGHTS = "visual.pt"
REPORT_STEPS = 100
ADAMW_SHARE = 0.5  # of Muon's learning rate
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # coefficients of an iteration that takes singular values near 1


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        size: S.
        steps: of the optimisers.
        lr: of Muon, peak, after a linear start; cosine to a hundredth of it. AdamW's is half of it.
    """

    size: int
    steps: int
    lr: float
    batch: int = 64
    warmup: int = 50
    weight_decay: float = 0.05

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal: half as many views as AdamW needs here. Source: Jordan et al., Muon (2024).

    torch.optim.Muon is the same in bfloat16, in which most processors do not compute. Steps have the length of AdamW's
    (Liu et al., arXiv 2502.16982).

    Args:
        matrices: (O, I) each; q, k and v of a layer, which are one matrix, are three here.
        lr: learning rate.
        weight_decay: a step, times lr.
        momentum: of the gradients' mean.
    """

    def __init__(self, matrices: list[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])  # Nesterov's
                parts = ahead.split(ahead.shape[1]) if ahead.shape[0] == 3 * ahead.shape[1] else (ahead,)
                update = torch.cat([0.2 * max(part.shape) ** 0.5 * orthogonal(part) for part in parts])
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the same singular vectors and singular values near 1, (O, I)."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    tall = matrix.shape[0] > matrix.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def optimisers_of(model: Any, phase: Phase) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the layers, AdamW for all else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "resblocks" in name]
    chosen = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in chosen]
    return Muon(matrices, phase.lr, phase.weight_decay), torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)


def tower(size: int) -> Any:
    """The image tower with random weights, for photos of `size` pixels a side."""
    make = import_open_clip().transformer.VisionTransformer
    return make(size, PATCH, WIDTH, LAYERS, WIDTH // HEAD_WIDTH, 4.0, output_dim=EMBED_DIM, output_tokens=True)


def grown(state: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """The weights for photos of another size: position vectors of the patches are interpolated."""
    old = state["positional_embedding"]  # (1 + G G, W)
    grid = math.isqrt(len(old) - 1)
    places = old[1:].T.reshape(1, -1, grid, grid)
    places = F.interpolate(places, (size // PATCH,) * 2, mode="bicubic", align_corners=False)  # (1, W, G', G')
    return {**state, "positional_embedding": torch.cat([old[:1], places.flatten(2)[0].T])}


def batches(pixels: NDArray[np.uint8], features: NDArray[np.float16], phase: Phase, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (B, 3, S, S) and nano's features of the places (B, D, G, G), in a new order each time round."""
    rng = np.random.default_rng(seed)
    grid = phase.size // PATCH
    while True:
        order = rng.permutation(len(pixels))
        for start in range(0, len(order) - phase.batch + 1, phase.batch):
            rows = np.sort(order[start : start + phase.batch])
            x = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
            x = F.interpolate(x, (phase.size,) * 2, mode="bilinear", antialias=True)
            places = torch.from_numpy(features[rows]).float().permute(0, 3, 1, 2)
            yield x, F.interpolate(places, (grid,) * 2, mode="bilinear", align_corners=False)


def loss_of(model: Any, pixels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """One minus the mean cosine to nano's feature: of the whole view, and of its places."""
    whole, tokens = model(pixels)  # (B, D), (B, G G, W)
    parts = F.cosine_similarity((tokens @ model.proj).float(), places.flatten(2).transpose(1, 2), dim=-1)  # (B, G G)
    return 1 - F.cosine_similarity(whole.float(), places.mean((2, 3)), dim=-1).mean(), 1 - parts.mean()


@contextmanager
def fast_products() -> Iterator[None]:
    """Products in bfloat16 where the processor has it; attention as plain products, since torch's fused one is slower here."""
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()), sdpa_kernel(SDPBackend.MATH):
        yield


def train(model: Any, views: Path, phase: Phase, seed: int) -> None:
    """Train in place."""
    features = np.load(views / FEATURES, mmap_mode="r")
    filled = int(features[:, 0, 0].any(axis=1).sum())  # rows at the end are empty where files could not be read
    pixels = np.load(views / PIXELS, mmap_mode="r")[:filled]
    optimisers = optimisers_of(model, phase)
    began, sums = time.monotonic(), np.zeros(2)
    model.train()
    for step, (x, places) in zip(range(phase.steps), batches(pixels, features[:filled], phase, seed), strict=False):
        for optimiser, share in zip(optimisers, (1.0, ADAMW_SHARE), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = share * phase.rate(step)
        model.zero_grad(set_to_none=True)
        with fast_products():
            whole, parts = loss_of(model, x, places)
            (whole + parts).backward()  # type: ignore[no-untyped-call]
            for optimiser in optimisers:
                optimiser.step()
        sums += whole.item(), parts.item()
        if (step + 1) % REPORT_STEPS == 0:
            whole_mean, parts_mean = sums / REPORT_STEPS
            speed = (step + 1) * phase.batch / (time.monotonic() - began)
            print(
                f"{phase.size} px, step {step + 1}: {whole_mean:.4f} whole, {parts_mean:.4f} places, {speed:.0f} views/s",
                flush=True,
            )
            sums[:] = 0
    model.eval()


def distil(views: Path, phases: list[Phase], seed: int) -> Any:
    """The trained image tower; the weights after each phase are kept in `views`."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] | None = None
    for number, phase in enumerate(phases):
        model = tower(phase.size)
        if state is not None:
            model.load_state_dict(grown(state, phase.size))
        train(model, views, phase, seed + number)
        state = model.state_dict()
        torch.save(state, views / f"{phase.size}.{WEIGHTS}")
    return model


def build(visual: Any, target: Path) -> Manifest:
    """Write the folder: this image tower, and nano's text tower with its weights as float32; replaces an older one."""
    nano = Backbone.open("nano")
    old, names = nano.manifest, nano.text_weights.names
    preprocess = replace(old.preprocess, size=visual.image_size[0], resize=visual.image_size[0])
    texts = {name: nano.text_weights.tensor(name) for name in names}
    visual.output_tokens = False
    images = vision_tensors(visual)
    tokenizer = (nano.folder / TOKENIZER).read_bytes()
    with folder.new_folder(target, replace=True) as work:
        for name in (TOKENIZER, TOKENIZER_CONFIG):
            (work / name).write_bytes((nano.folder / name).read_bytes())
        folder.write_text(work, texts, old.text, old.embed_dim)
        write_image_graph(work, visual, preprocess.size, old.embed_dim)
        vision = vision_config(visual)
        if vision is None:
            raise ExportError("the exporter does not know its own tower: please report this")
        folder.write_prompted(work, images, vision, old.text, preprocess.size, old.embed_dim)
        return folder.write_manifest(
            work,
            name="vit-mini",
            source=f"distilled from {old.name} ({old.fingerprint[:16]})",
            licence=old.licence,
            fingerprint=folder.fingerprint({**texts, **images}, tokenizer, preprocess, old.text, old.logit_scale),
            embed_dim=old.embed_dim,
            logit_scale=old.logit_scale,
            preprocess=preprocess,
            text=old.text,
            precisions={"fp32": _measure(work, visual, preprocess)},
            vision=vision,
        )


def _measure(work: Path, visual: Any, preprocess: Preprocess) -> PrecisionRecord:
    """Cosine of the exported encoder to the tower in torch, and agreement in which class mean is nearest."""
    paths = sorted(PHOTOS.glob("*/*.png"))
    pixels = np.stack([to_pixels(decode_photo(path.read_bytes()), preprocess) for path in paths])
    labels = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
    session = Session(work / image_onnx("fp32"), stored_low=True)
    parts = np.array_split(pixels, 20)
    with torch.inference_mode():
        wanted = np.concatenate([F.normalize(visual(torch.from_numpy(part)), dim=-1).numpy() for part in parts])
    got = np.concatenate([session.run({"pixels": part}) for part in parts])
    means = np.stack([wanted[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    same = (got @ means.T).argmax(axis=1) == (wanted @ means.T).argmax(axis=1)
    return PrecisionRecord(float((got * wanted).sum(axis=1).min()), float(same.mean()), len(paths))


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=Path, required=True, help="what vit_mini_views wrote")
    parser.add_argument("--steps", type=int, nargs=2, default=(2400, 250), help="at 112 and at 160 pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    phases = [Phase(size, steps, lr) for size, steps, lr in zip((112, 160), args.steps, (3e-3, 1e-3), strict=True)]
    manifest = build(distil(args.views, phases, args.seed), args.out)
    print(f"{args.out}: fingerprint {manifest.fingerprint[:16]}, {manifest.precisions}")


if __name__ == "__main__":
    main()
