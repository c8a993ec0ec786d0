"""Start-up and memory of the command, each run in a process of its own.

    python benchmarks/start_up.py                                      exports a random-weight ViT-B/32 first
    python benchmarks/start_up.py --vit-b-32 FOLDER --json             an exported one; prints one JSON object

`edge-qprompt classify` labels one photo on nano with a pack of ten classes that `adapt` has just made; in turn with
`python -c "import numpy"`, which tells how slow the machine is. `edge-qprompt adapt` learns on ViT-B/32 from a few of the
embedded photos. Peaks are the kernel's for each child (ru_maxrss of wait4), medians of all runs; adapt's own
report of its peak stands beside it. Every adapt has an empty cache of features.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timing import publish

DEMO = Path(__file__).parent.parent / "edge_qprompt" / "data" / "fashion_mnist"
PHOTO = DEMO / "test" / "bag" / "3.png"
COMMAND = (sys.executable, "-m", "device_agent")
BASELINE = (sys.executable, "-c", "import numpy")
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # wait4: bytes on macOS, kilobytes elsewhere


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        out: its stdout.
        seconds: from start to end.
        peak_mb: largest resident size, 10^6 bytes.
    """

    out: str
    seconds: float
    peak_mb: float


def run(command: Sequence[str | Path], cache: Path) -> Ended:
    """Run a command to its end, with a cache folder of its own.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        # Linux counts a child's ru_maxrss from the size of its parent on, so this process imports nothing large
        environment = {**os.environ, "EDGE_QPROMPT_CACHE": str(cache)}
        actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1)]
        child = os.posix_spawn(str(command[0]), [str(part) for part in command], environment, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
        seconds = time.perf_counter() - start
        out.seek(0)
        text = out.read()
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(map(str, command))} ended with {code}")
    return Ended(text, seconds, usage.ru_maxrss * MAXRSS_UNIT / 1e6)


def few_photos(folder: Path, each: int) -> Path:
    """The first `each` photos of every embedded class."""
    for source in sorted((DEMO / "train").iterdir()):
        (folder / source.name).mkdir(parents=True)
        for photo in sorted(source.iterdir())[:each]:
            shutil.copy(photo, folder / source.name)
    return folder


def random_vit_b_32(work: Path) -> Path:
    """A random-weight ViT-B/32, made by another process: Linux starts a child's peak at its parent's size."""
    script = "import pathlib, sys, vit_b_32; vit_b_32.random_vit_b_32(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, str(work)], check=True, cwd=Path(__file__).parent)
    return work / "vit-b-32"


def measure_classify(work: Path, rounds: int) -> dict[str, float]:
    """Cold `classify` on nano and the baseline, in turn; the first round, which fills the page cache, is left out."""
    pack, cache = work / "nano.qpk", work / "cache-nano"
    run([*COMMAND, "adapt", few_photos(work / "nano-photos", 1), "--out", pack, "--epochs", "1"], cache)
    classify = (*COMMAND, "classify", str(pack), str(PHOTO), "--json")
    pairs = [(run(classify, cache), run(BASELINE, cache)) for _ in range(rounds + 1)][1:]
    labelled, bare = [one for one, _ in pairs], [other for _, other in pairs]
    seconds, baseline = (statistics.median(ended.seconds for ended in runs) for runs in (labelled, bare))
    return {
        "classify_seconds": seconds,
        "classify_peak_mb": statistics.median(ended.peak_mb for ended in labelled),
        "import_numpy_seconds": baseline,
        "import_numpy_peak_mb": statistics.median(ended.peak_mb for ended in bare),
        "classify_over_import_numpy": seconds / baseline,
    }


def measure_adapt(work: Path, backbone: Path, shots: int, epochs: int, rounds: int) -> dict[str, float]:
    """`adapt` on ViT-B/32 with an empty cache each time: photos encoded, a prompt learned, the pack checked."""
    photos = few_photos(work / "photos", shots)
    options = ("--backbone", backbone, "--shots", str(shots), "--epochs", str(epochs), "--json")
    runs = [run([*COMMAND, "adapt", photos, "--out", work / f"{i}.qpk", *options], work / f"cache-{i}") for i in range(rounds)]
    return {
        "adapt_seconds": statistics.median(ended.seconds for ended in runs),
        "adapt_peak_mb": statistics.median(ended.peak_mb for ended in runs),
        "adapt_largest_peak_mb": max(ended.peak_mb for ended in runs),
        "adapt_own_peak_mb": statistics.median(json.loads(ended.out)["peak_memory_mb"] for ended in runs),
    }


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--vit-b-32", type=Path, metavar="FOLDER", help="an exported ViT-B/32")
    parser.add_argument("--rounds", type=int, default=7, help="of classify")
    parser.add_argument("--adapt-rounds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=2, help="photos a class of ten")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        backbone = args.vit_b_32 or random_vit_b_32(work)
        r = measure_classify(work, args.rounds) | measure_adapt(work, backbone, args.shots, args.epochs, args.adapt_rounds)
    if args.json:
        print(json.dumps(r))
        return
    lines = [
        "| command | time | over `import numpy` | peak memory | largest | own report |",
        "|---|---|---|---|---|---|",
        f"| import numpy | {r['import_numpy_seconds']:.2f} s | 1 | {r['import_numpy_peak_mb']:.0f} MB | | |",
        f"| classify, nano, one photo | {r['classify_seconds']:.2f} s | {r['classify_over_import_numpy']:.1f} "
        f"| {r['classify_peak_mb']:.0f} MB | | |",
        f"| adapt, ViT-B/32, {10 * args.shots} photos, {args.epochs} epochs | {r['adapt_seconds']:.1f} s | "
        f"| {r['adapt_peak_mb']:.0f} MB | {r['adapt_largest_peak_mb']:.0f} MB | {r['adapt_own_peak_mb']:.0f} MB |",
    ]
    publish("start_up", lines, "onnxruntime", "torch", out=args.out)


if __name__ == "__main__":
    main()
