"""The training step against the reference step: same weights, same float32, in one process.

    python benchmarks/step_speed.py                              prints a table
    python benchmarks/step_speed.py --out docs/performance.md    also writes it there
    python benchmarks/step_speed.py --json                       prints {"rows": [{"tower", "classes", "ratio_float32", ...}]}

One step is class features, cross-entropy over 32 photos and the gradient of the prompt. The reference is
open_clip's text transformer at its full context length for every class (77 tokens; nano has 32), as CoOp
runs it, frozen likewise, with torch's threads. All take turns; figures are ratios of medians. The class
names are distinct: Caltech-101's, then Oxford Flowers' (benchmarks/names.txt).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import with_helpers  # noqa: F401  before what it makes importable
from reference_tower import VIT_B_32, Pair, nano_pair, random_pair
from timing import publish
from torch import Tensor

from edge_qprompt.backbone.speed import median_seconds
from edge_qprompt.backbone.text import name_tokens
from edge_qprompt.learn.step import ParallelTower, has_bfloat16
from edge_qprompt.learn.threads import threads_for, torch_threads

CLASSES = (10, 50, 100, 200)
N_CTX = 4
BATCH = 32
LOGIT_SCALE = 100.0
NAMES = Path(__file__).parent / "names.txt"
HEAD = (
    "| tower | classes | tokens | float32 | gradient error | step | bfloat16 |",
    "|---|---|---|---|---|---|---|",
)


def measure(name: str, pair: Pair, names: list[str], rounds: int) -> dict[str, Any]:
    """One row of the table."""
    rows = name_tokens(pair.tokenizer, names, N_CTX)
    threads = threads_for(pair.ours.work(rows, N_CTX))
    suffixes = pair.ours.suffixes(rows, N_CTX, threads)
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

    reference = step(lambda ctx: pair.reference_features(ctx, rows), torch.get_num_threads())
    ours = step(ParallelTower(pair.ours, suffixes, threads), 1)
    low = step(ParallelTower(pair.ours.in_bfloat16(), suffixes, threads), 1) if has_bfloat16() else None
    wanted = reference()
    seconds = median_seconds([ours, reference, *([low] if low else [])], rounds)
    return {
        "tower": name,
        "classes": len(names),
        "tokens": suffixes.mask.shape[0] * suffixes.mask.shape[-1],
        "reference_tokens": pair.config.context_length * len(names),
        "threads": threads,
        "ratio_float32": seconds[1] / seconds[0],
        "gradient_error": float((ours() - wanted).norm() / wanted.norm()),
        "step_ms": 1000 * seconds[0],
        "ratio_bfloat16": seconds[1] / seconds[2] if low else None,
        "bfloat16_cosine": float(F.cosine_similarity(low().flatten(), wanted.flatten(), dim=0)) if low else None,
    }


def line(r: dict[str, Any]) -> str:
    """One row of the Markdown table."""
    low = f"{r['ratio_bfloat16']:.1f}x, cosine {r['bfloat16_cosine']:.4f}" if r["ratio_bfloat16"] else "no such processor"
    return (
        f"| {r['tower']} | {r['classes']} | {r['tokens']} of {r['reference_tokens']} | **{r['ratio_float32']:.1f}x** "
        f"| {r['gradient_error']:.1e} | {r['step_ms']:.0f} ms on {r['threads']} | {low} |"
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
