"""The training step against the reference step: same weights, same float32, in one process.

    python benchmarks/step_speed.py            prints a table
    python benchmarks/step_speed.py --json     prints {"rows": [{"tower", "classes", "ratio_float32", ...}]}

One step is class features, cross-entropy over 32 photos and the gradient of the prompt. The reference is
open_clip's text transformer at its full context length for every class (77 tokens; nano has 32), as CoOp
runs it, frozen likewise. Both take turns; figures are ratios of medians. The class names are distinct:
Caltech-101's, then Oxford Flowers' (benchmarks/names.txt).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from reference_tower import VIT_B_32, Pair, nano_pair, random_pair
from torch import Tensor

from edge_qprompt.learn.threads import threads_for, torch_threads
from edge_qprompt.prompts import name_tokens

CLASSES = (10, 50, 100, 200)
N_CTX = 4
BATCH = 32
LOGIT_SCALE = 100.0
NAMES = Path(__file__).parent / "names.txt"


def matmul_rate(pair: Pair, rows: int) -> float:
    """FLOP/s of this machine for the forward and backward products of one block, at `rows` tokens."""
    width = pair.config.width
    x = torch.randn(rows, width)
    weights = [torch.randn(n * width, width) for n in (3, 1, 4)] + [torch.randn(width, 4 * width)]
    inputs = [x, x, x, torch.randn(rows, 4 * width)]
    outputs = [F.linear(a, w) for a, w in zip(inputs, weights, strict=True)]

    def products() -> None:
        for a, w, out in zip(inputs, weights, outputs, strict=True):
            F.linear(a, w)
            out @ w

    flops = sum(2 * 2 * rows * w.numel() for w in weights)
    return flops / median_seconds([products], rounds=30)[0]


def median_seconds(jobs: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each job, run in turn."""
    times: list[list[float]] = [[] for _ in jobs]
    for _ in range(rounds + 1):
        for job, mine in zip(jobs, times, strict=True):
            start = time.perf_counter()
            job()
            mine.append(time.perf_counter() - start)
    return [statistics.median(mine[1:]) for mine in times]  # the first round warms up


def measure(name: str, pair: Pair, names: list[str], rounds: int) -> dict[str, object]:
    """One row of the table."""
    rows = name_tokens(pair.tokenizer, names, N_CTX)
    suffixes = pair.ours.suffixes(rows, N_CTX)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(N_CTX, pair.config.width, generator=generator) * 0.02
    photos = F.normalize(torch.randn(BATCH, pair.ours.projection.shape[1], generator=generator), dim=-1)
    labels = torch.randint(len(names), (BATCH,), generator=generator)

    def step(tower: Callable[[Tensor], Tensor]) -> Tensor:
        ctx = start.clone().requires_grad_()
        F.cross_entropy(LOGIT_SCALE * photos @ tower(ctx).T, labels).backward()
        assert ctx.grad is not None
        return ctx.grad

    def ours() -> Tensor:
        return step(lambda ctx: pair.ours(ctx, suffixes))

    def reference() -> Tensor:
        return step(lambda ctx: pair.reference_features(ctx, rows))

    wanted = reference()
    error = float((ours() - wanted).norm() / wanted.norm())
    work = pair.ours.work(suffixes, N_CTX)
    mine, theirs = median_seconds([ours, reference], rounds)
    tokens = 1 + N_CTX + len(suffixes.vectors)
    rate = matmul_rate(pair, tokens)
    with torch_threads(threads_for(work)):
        (as_adapt_runs_it,) = median_seconds([ours], rounds)
    return {
        "tower": name,
        "classes": len(names),
        "tokens": tokens,
        "reference_tokens": pair.config.context_length * len(names),
        "ratio_float32": theirs / mine,
        "gradient_error": error,
        "share_of_matmul_rate": work / mine / rate,
        "step_ms": 1000 * mine,
        "adapt_threads": threads_for(work),
        "adapt_step_ms": 1000 * as_adapt_runs_it,
    }


def main() -> None:
    """Measure both towers at all numbers of classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--towers", nargs="+", default=["vit-b-32", "nano"])
    args = parser.parse_args()
    names = [name for name in NAMES.read_text().splitlines() if name]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        towers = {"vit-b-32": lambda: random_pair(VIT_B_32, Path(folder)), "nano": nano_pair}
        for tower in args.towers:
            pair = towers[tower]()
            for classes in args.classes:
                rows.append(measure(tower, pair, names[:classes], args.rounds))
                print(f"{tower} {classes}: {rows[-1]['ratio_float32']:.1f}x", file=sys.stderr)
    if args.json:
        print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}))
        return
    print("| tower | classes | tokens | reference tokens | ratio | gradient error | share of matmul | step | as adapt runs it |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['tower']} | {r['classes']} | {r['tokens']} | {r['reference_tokens']} | {r['ratio_float32']:.1f}x "
            f"| {r['gradient_error']:.1e} | {100 * r['share_of_matmul_rate']:.0f} % | {r['step_ms']:.0f} ms "
            f"| {r['adapt_step_ms']:.0f} ms on {r['adapt_threads']} |"
        )


if __name__ == "__main__":
    main()
