"""What do 999 more tasks cost on a photo that is encoded anyway?

    python benchmarks/many_tasks.py            prints a Markdown table
    python benchmarks/many_tasks.py --json     prints {"tasks", "classes", "ratio", ...}

1 pack and 1,000 packs of 10 classes on nano label the same photo in turn, in one process: reading, decoding,
encoding, class scores and the three best labels of every task. The packs are random 1-bit prompts of 4 tokens,
as `adapt` writes them, each with its own context and its own class names. Loading is from the packs' bytes to
class features, which takes the text tower once a pack.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import time
from pathlib import Path

import numpy as np
from timing import publish

import edge_qprompt
from edge_qprompt import Backbone, Pack, Tasks
from edge_qprompt.backbone.speed import median_seconds
from edge_qprompt.codebook import Quantized
from edge_qprompt.learn import METHODS
from edge_qprompt.pack.pack import PackTensor, Precision, Role, names_section

NAMES = [name for name in (Path(__file__).parent / "names.txt").read_text().splitlines() if name]
PHOTO = Path(edge_qprompt.__file__).parent / "data" / "fashion_mnist" / "test" / "bag" / "3.png"
N_CTX = 4
CONTEXT_STD = 0.02  # of the random contexts' two values
STATUS = Path("/proc/self/status")


def random_pack(backbone: Backbone, number: int, classes: int) -> bytes:
    """A pack's bytes: its own random context, and class names that no other pack has."""
    rng = np.random.default_rng(number)
    indexes = rng.integers(0, 2, (N_CTX, backbone.manifest.text.width), np.uint8)
    ctx = PackTensor.quantized(Role.CTX, Quantized(np.sort(rng.normal(0, CONTEXT_STD, 2)), indexes, 1))
    chosen = rng.choice(len(NAMES), classes, replace=False)
    names = names_section([f"{NAMES[i]} {number}" for i in chosen])
    return Pack(backbone.manifest.short_fingerprint, METHODS["qcoop"].number, Precision.FP32, (ctx,), (names,)).encode()


def load(backbone: Backbone, packs: list[bytes]) -> Tasks:
    """Tasks of packs, called 0, 1, ..."""
    tasks = Tasks(backbone)
    for number, data in enumerate(packs):
        tasks.add(str(number), Pack.decode(data))
    return tasks


def resident_mb() -> float:
    """Resident size of this process; not a peak, so not of getrusage."""
    found = re.search(r"VmRSS:\s*(\d+) kB", STATUS.read_text())
    if found is None:
        raise SystemExit(f"{STATUS} has no VmRSS: this needs Linux")
    return int(found[1]) * 1024 / 1e6


def main() -> None:
    """Load, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    backbone = Backbone.open("nano")
    packs = [random_pack(backbone, number, args.classes) for number in range(args.tasks)]
    one = load(backbone, packs[:1])
    one.classify(PHOTO)
    gc.collect()
    before, start = resident_mb(), time.perf_counter()
    many = load(backbone, packs)
    load_s = time.perf_counter() - start
    start = time.perf_counter()
    many.classify(PHOTO)
    first_s = time.perf_counter() - start  # stacks the class features
    gc.collect()
    growth = resident_mb() - before
    alone, together = median_seconds([lambda: one.classify(PHOTO), lambda: many.classify(PHOTO)], args.rounds)
    result = {
        "tasks": args.tasks,
        "classes": args.classes,
        "ratio": together / alone,
        "one_ms": 1000 * alone,
        "many_ms": 1000 * together,
        "load_s": load_s,
        "first_photo_ms": 1000 * first_s,
        "memory_growth_mb": growth,
    }
    if args.json:
        print(json.dumps(result))
        return
    lines = [
        "| tasks | classes each | time of a photo, over one task | one task | all | first photo | load | memory |",
        "|---|---|---|---|---|---|---|---|",
        f"| {args.tasks} | {args.classes} | {result['ratio']:.2f} | {result['one_ms']:.1f} ms | {result['many_ms']:.1f} ms "
        f"| {result['first_photo_ms']:.0f} ms | {load_s:.1f} s | {growth:.0f} MB |",
    ]
    publish("many_tasks", lines, "onnxruntime", "numpy", out=args.out)


if __name__ == "__main__":
    main()
