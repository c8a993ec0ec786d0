"""The training step against the reference step: same weights, same float32, in one process.

    python benchmarks/step_speed.py                              prints a table
    python benchmarks/step_speed.py --out docs/performance.md    also writes it there
    python benchmarks/step_speed.py --json                       prints {"rows": [{"tower", "classes", "ratio_float32", ...}]}

One step is class features, cross-entropy over 32 photos and the gradient of the prompt. The reference is
open_clip's text transformer at its full context length for every class (77 tokens; nano has 32), as CoOp
runs it, frozen likewise, with torch's threads. All take turns; figures are ratios of medians. The class
names are distinct: Caltech-101's, then Oxford Flowers' (benchmarks/names.txt).

The share of the matrix-product rate is the time of the step's own products, alone, with the same weights,
shapes, threads and BLAS, over the time of the step.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from reference_tower import VIT_B_32, Pair, nano_pair, random_pair
from timing import publish
from torch import Tensor

from edge_qprompt.backbone.speed import median_seconds
from edge_qprompt.backbone.text import name_tokens
from edge_qprompt.learn.step.engine import has_bfloat16
from edge_qprompt.learn.step.frozen import LowProduct
from edge_qprompt.learn.step.fused import FusedTower
from edge_qprompt.learn.step.threads import threads_for, torch_threads

CLASSES = (10, 50, 100, 200)
N_CTX = 4
BATCH = 32
LOGIT_SCALE = 100.0
NAMES = Path(__file__).parent / "names.txt"
HEAD = (
    "| tower | classes | tokens | float32 | gradient error | share of matmul rate | GFLOP/s | step | readable | bfloat16 |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


class Products:
    """The weight products of a fused step and nothing else."""

    def __init__(self, fused: FusedTower) -> None:
        self._team, self._jobs = fused._team, [list(self._of(rank, fused)) for rank in fused._ranks]
        self.flops = sum(2 * weight.size * x.shape[1] for jobs in self._jobs for weight, x, _ in jobs)

    def __call__(self) -> None:
        """Run them, each thread its own."""

        def run(rank: int) -> int:
            for weight, x, out in self._jobs[rank]:
                np.matmul(weight, x, out=out)
            return 0

        self._team.run(run)

    @staticmethod
    def _of(rank: Any, fused: FusedTower) -> Iterator[tuple[Any, Any, Any]]:
        layers = rank.layers
        for chunk in fused._chunks:
            n_ctx, full, picked = chunk.prefix - 1, chunk.columns, len(chunk.picked)
            shapes = [(layers[0].qkv, n_ctx)] + [(layer.qkv, full) for layer in layers[1:-1]]
            shapes += [(p, full) for layer in layers[:-1] for p in (layer.out, layer.fc, layer.proj)]
            last = layers[-1]
            shapes += [(last.kv, full)] + [(p, picked) for p in (last.q, last.out, last.fc, last.proj)]
            for product, columns in shapes:
                weight = product._weight
                for matrix in (weight, weight.T):
                    rows, inner = matrix.shape
                    yield matrix, np.ones((inner, columns), np.float32), np.empty((rows, columns), np.float32)


def measure(name: str, pair: Pair, names: list[str], rounds: int) -> dict[str, Any]:
    """One row of the table."""
    rows = name_tokens(pair.tokenizer, names, N_CTX)
    suffixes = pair.ours.suffixes(rows, N_CTX)
    threads = threads_for(pair.ours.work(suffixes, N_CTX))
    fused = FusedTower(pair.ours, suffixes, N_CTX, threads)
    products = Products(fused)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(N_CTX, pair.config.width, generator=generator) * 0.02
    photos = F.normalize(torch.randn(BATCH, pair.ours.projection.shape[1], generator=generator), dim=-1)
    labels = torch.randint(len(names), (BATCH,), generator=generator)

    def step(encode: Callable[[Tensor], Tensor], torch_count: int) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch_threads(torch_count):
                ctx = start.clone().requires_grad_()
                F.cross_entropy(LOGIT_SCALE * photos @ encode(ctx).T, labels).backward()
            assert ctx.grad is not None
            return ctx.grad

        return run

    everything = torch.get_num_threads()
    reference = step(lambda ctx: pair.reference_features(ctx, rows), everything)
    ours, readable = step(fused, 1), step(lambda ctx: pair.ours(ctx, suffixes), everything)
    wanted = reference()
    jobs: list[Callable[[], object]] = [ours, products, readable, reference]
    low = step(FusedTower(pair.ours, suffixes, N_CTX, threads, product=LowProduct), 1) if has_bfloat16() else None
    seconds = median_seconds([*jobs, low] if low else jobs, rounds)
    return {
        "tower": name,
        "classes": len(names),
        "tokens": 1 + N_CTX + len(suffixes.vectors),
        "reference_tokens": pair.config.context_length * len(names),
        "threads": fused.threads,
        "ratio_float32": seconds[3] / seconds[0],
        "gradient_error": float((ours() - wanted).norm() / wanted.norm()),
        "share_of_matmul_rate": seconds[1] / seconds[0],
        "matmul_gflops": products.flops / seconds[1] / 1e9,
        "step_ms": 1000 * seconds[0],
        "ratio_readable": seconds[3] / seconds[2],
        "ratio_bfloat16": seconds[3] / seconds[4] if low else None,
        "bfloat16_cosine": float(F.cosine_similarity(low().flatten(), wanted.flatten(), dim=0)) if low else None,
    }


def line(r: dict[str, Any]) -> str:
    """One row of the Markdown table."""
    low = f"{r['ratio_bfloat16']:.1f}x, cosine {r['bfloat16_cosine']:.4f}" if r["ratio_bfloat16"] else "no such processor"
    return (
        f"| {r['tower']} | {r['classes']} | {r['tokens']} of {r['reference_tokens']} | **{r['ratio_float32']:.1f}x** "
        f"| {r['gradient_error']:.1e} | {100 * r['share_of_matmul_rate']:.0f} % | {r['matmul_gflops']:.0f} "
        f"| {r['step_ms']:.0f} ms on {r['threads']} | {r['ratio_readable']:.1f}x | {low} |"
    )


def main() -> None:
    """Measure both towers at all numbers of classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--towers", nargs="+", default=["vit-b-32", "nano"])
    parser.add_argument("--out", type=Path, help="Markdown file with marks for this table")
    args = parser.parse_args()
    names = [name for name in NAMES.read_text().splitlines() if name]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        towers = {"vit-b-32": lambda: random_pair(VIT_B_32, Path(folder)), "nano": nano_pair}
        for tower in args.towers:
            pair = towers[tower]()
            for classes in args.classes:
                rows.append(measure(tower, pair, names[:classes], args.rounds))
                print(line(rows[-1]), file=sys.stderr)
    if args.json:
        print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}))
    else:
        publish("step_speed", [*HEAD, *map(line, rows)], "torch", "numpy", out=args.out)


if __name__ == "__main__":
    main()
