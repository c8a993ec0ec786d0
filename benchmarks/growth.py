"""How time and memory of a training step grow with the number of classes, on a random-weight ViT-B/32 text tower.

    python benchmarks/growth.py --plot docs/growth.png --out docs/performance.md

Every number of classes runs in a process of its own, so that its peak memory is its own. Classes have the lengths
of real names (benchmarks/names.txt, again and again) and random tokens, so that any number of them are distinct.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLASSES = (10, 20, 50, 100, 200, 300, 500, 700, 1000)
N_CTX = 4
NAMES = Path(__file__).parent / "names.txt"


def child(weights: Path, classes: int, memory: int, rounds: int) -> dict[str, Any]:
    """Measure one number of classes in this process."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    import with_helpers  # noqa: F401  before what it makes importable
    from reference_tower import VIT_B_32

    from device_agent.outcome import peak_memory_mb
    from edge_qprompt import Backbone
    from edge_qprompt.backbone.weights import Weights
    from edge_qprompt.learn.step import ParallelTower
    from edge_qprompt.learn.threads import threads_for, torch_threads
    from edge_qprompt.learn.towers.text import TextTower

    names = [name for name in NAMES.read_text().splitlines() if name]
    lengths = [len(Backbone.open("nano").tokenizer.encode(f"{name}.")) for name in names]
    rng = np.random.default_rng(0)
    rows = [rng.integers(1000, 40000, lengths[i % len(lengths)]).tolist() for i in range(classes)]
    tower = TextTower(Weights(weights), VIT_B_32)
    threads = threads_for(tower.work(rows, N_CTX))
    suffixes = tower.suffixes(rows, N_CTX, threads)
    encode = ParallelTower(tower, suffixes, threads, memory << 20)
    start = torch.randn(N_CTX, VIT_B_32.width) * 0.02
    photos, labels = F.normalize(torch.randn(32, VIT_B_32.width), dim=-1), torch.randint(classes, (32,))
    seconds = []
    with torch_threads(1):
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            ctx = start.clone().requires_grad_()
            F.cross_entropy(100 * photos @ encode(ctx).T, labels).backward()
            seconds.append(time.perf_counter() - begin)
    return {
        "classes": classes,
        "tokens": suffixes.mask.shape[0] * suffixes.mask.shape[-1],
        "seconds": statistics.median(seconds[1:]),
        "peak_mb": peak_memory_mb(),
        "again": sum(not kept for share in encode._shares for _, kept in share) / sum(map(len, encode._shares)),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory over the number of classes, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    classes = [r["classes"] for r in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    left.loglog(classes, [r["seconds"] for r in rows], "o-", label="a step")
    slope = rows[-1]["seconds"] / classes[-1]
    left.loglog(classes, [slope * c for c in classes], "--", color="grey", label="proportional")
    left.set(xlabel="classes", ylabel="seconds", title="Time of a step, ViT-B/32 text tower")
    left.legend()
    right.loglog(classes, [r["peak_mb"] for r in rows], "o-", color="tab:orange", label="whole process")
    right.axhline(1500, linestyle="--", color="grey", label="1.5 GB")
    right.set(xlabel="classes", ylabel="MB", title="Peak memory", ylim=(100, 3000))
    right.legend()
    for axes in (left, right):
        axes.grid(which="both", alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run each number of classes in a process of its own, then print, plot and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--memory", type=int, default=512, help="megabytes for activations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.classes[0], args.memory, args.rounds)))
        return
    import with_helpers  # noqa: F401
    from reference_tower import VIT_B_32, random_pair
    from timing import publish

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        random_pair(VIT_B_32, Path(folder))
        for classes in args.classes:
            command = [sys.executable, __file__, "--child", f"{folder}/text.safetensors", "--classes", str(classes)]
            command += ["--memory", str(args.memory), "--rounds", str(args.rounds)]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(rows[-1], file=sys.stderr)
    if args.plot:
        plot(rows, args.plot)
    lines = ["| classes | tokens | step | a class | peak memory | computed again |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['classes']} | {r['tokens']} | {r['seconds']:.2f} s | {1000 * r['seconds'] / r['classes']:.1f} ms "
        f"| {r['peak_mb']:.0f} MB | {100 * r['again']:.0f} % |"
        for r in rows
    ]
    publish("growth", lines, "torch", "numpy", out=args.out)


if __name__ == "__main__":
    main()
