"""Base-to-new generalisation on real photos: zero-shot, CoOp and QCoOp.

    python benchmarks/base_to_new.py --data ../shared/datasets --jobs 2

Learns on the base classes (16 shots) of each data set, then measures test accuracy on the base
classes and, with the same prompt, on the new ones. Finished cells are kept in --lines (one JSON
object a line) and are not run again; the table is written to --out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from edge_qprompt import Backbone, Classifier
from edge_qprompt.classifier import zero_shot
from edge_qprompt.dataset import Dataset, load_dataset
from edge_qprompt.features import extract
from edge_qprompt.learn.adapt import AdaptSettings, adapt
from edge_qprompt.learn.settings import LoopSettings, MethodSettings
from edge_qprompt.metrics import Scores, harmonic_mean
from edge_qprompt.quantizer import ClusterSettings

HERE = Path(__file__).parent
DATASETS = ("caltech101", "eurosat", "oxford_flowers102", "dtd10", "pacs_photo")
METHODS = ("coop", "qcoop")
MARK = "<!-- base_to_new -->"


@dataclass(frozen=True)
class Cell:
    """One run: everything that decides it."""

    dataset: str
    method: str
    seed: int
    bits: int
    epochs: int
    views: int
    shots: int
    backbone: str
    interval: int
    threshold: float
    batch: int | None
    lr: float


def run(cell: Cell, root: Path) -> dict[str, object]:
    """Learn on base, measure on base and new."""
    backbone = Backbone.open(cell.backbone)
    data = load_dataset(root / cell.dataset)
    settings = AdaptSettings(
        method=cell.method,
        shots=cell.shots,
        views=cell.views,
        loop=LoopSettings(epochs=cell.epochs, batch=cell.batch, lr=cell.lr, seed=cell.seed),
        method_settings=MethodSettings(ClusterSettings(cell.bits, cell.interval, cell.threshold)),
    )
    result = adapt(backbone, data.select("base"), settings)
    halves = {half: data.select(half) for half in ("base", "new")}
    measured = {}
    for half, part in halves.items():
        measured[half] = _accuracy(Classifier(backbone, result.pack, part.names), backbone, part)
        measured[f"zero_shot_{half}"] = _accuracy(zero_shot(backbone, part.names), backbone, part)
    size = sum(tensor.paper_bits for tensor in result.pack.tensors) / 8
    return (
        asdict(cell)
        | measured
        | {"prompt_bytes": size, "train": result.train.pack, "final_loss": result.run.losses[-1:]}
        | result.facts
    )


def _one_thread() -> None:
    """Processes side by side would spin against each other; see docs/adr/0005-threads.md."""
    torch.set_num_threads(1)


def _accuracy(classifier: Classifier, backbone: Backbone, part: Dataset) -> float:
    assert part.test is not None
    features = extract(backbone, part.test.paths, strict=True)
    return Scores.of(classifier.probabilities(features.values[:, 0]), part.test.labels).accuracy


def table(rows: list[dict[str, object]]) -> list[str]:
    """Markdown: mean over seeds, spread of H."""
    lines = ["| data set | method | prompt | base | new | H | H over seeds |", "|---|---|---|---|---|---|---|"]
    names = [name for name in DATASETS if any(row["dataset"] == name for row in rows)]
    totals: dict[str, list[tuple[float, float]]] = {}
    for name in names:
        mine = [row for row in rows if row["dataset"] == name]
        cells = {
            "zero-shot": [{**mine[0], "base": mine[0]["zero_shot_base"], "new": mine[0]["zero_shot_new"], "prompt_bytes": 0}]
        }
        for row in sorted(mine, key=lambda row: (str(row["method"]), -(row["batch"] or 0), row["seed"])):
            label = ("CoOp" if row["method"] == "coop" else f"QCoOp b={row['bits']}") + f", batch {row['batch'] or 'all'}"
            cells.setdefault(label, []).append(row)
        for label, runs in cells.items():
            base, new = (statistics.mean(float(r[half]) for r in runs) for half in ("base", "new"))
            hs = [100 * harmonic_mean(float(r["base"]), float(r["new"])) for r in runs]
            spread = f"{min(hs):.1f} to {max(hs):.1f}" if len(hs) > 1 else ""
            totals.setdefault(label, []).append((base, new))
            lines.append(_line(name, label, runs[0]["prompt_bytes"], base, new, spread))
    for label, pairs in totals.items():
        base, new = (statistics.mean(pair[i] for pair in pairs) for i in (0, 1))
        lines.append(_line("**mean**", label, "", base, new, ""))
    return lines


def _line(name: str, label: str, size: object, base: float, new: float, spread: str) -> str:
    size = f"{size:g} B" if isinstance(size, float) else size or ""
    return f"| {name} | {label} | {size} | {100 * base:.1f} | {100 * new:.1f} | {100 * harmonic_mean(base, new):.1f} | {spread} |"


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "datasets")
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--bits", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--interval", type=int, default=ClusterSettings().interval)
    parser.add_argument("--threshold", type=float, default=ClusterSettings().threshold)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--batch", nargs="+", default=["32", "all"], help="photos a step, or all")
    parser.add_argument("--lr", type=float, help="learning rate for 32 photos a step; by default that of adapt")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--lines", type=Path, default=HERE / "results" / "base_to_new.jsonl")
    parser.add_argument("--out", type=Path, help="Markdown file whose part between two marks is replaced")
    args = parser.parse_args()
    keys = ("bits", "epochs", "views", "shots", "backbone", "interval", "threshold")
    common = Cell("", "", 0, **{key: getattr(args, key) for key in keys}, batch=None, lr=0.0)
    cells = [
        replace(common, dataset=d, method=m, seed=s, batch=loop.batch, lr=loop.peak_lr)
        for loop in (LoopSettings(batch=None if batch == "all" else int(batch), lr=args.lr) for batch in args.batch)
        for d in args.datasets
        for s in (args.seeds if loop.batch or args.views > 1 else args.seeds[:1])  # else nothing depends on the seed
        for m in args.methods
    ]
    args.lines.parent.mkdir(exist_ok=True)
    old = [json.loads(line) for line in args.lines.read_text().splitlines()] if args.lines.exists() else []
    done = {cell: row for cell in cells for row in old if asdict(cell).items() <= row.items()}
    missing = [cell for cell in cells if cell not in done]
    print(f"{len(done)} cells done, {len(missing)} to run", file=sys.stderr)
    with ProcessPoolExecutor(args.jobs, initializer=_one_thread if args.jobs > 1 else None) as pool, args.lines.open("a") as file:
        for future in as_completed({pool.submit(run, cell, args.data): cell for cell in missing}):
            row = future.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            done[Cell(**{key: row[key] for key in asdict(common)})] = row  # type: ignore[arg-type]
            print(f"{row['dataset']} {row['method']} seed {row['seed']}: {row['base']:.3f} {row['new']:.3f}", file=sys.stderr)
    text = "\n".join(table([done[cell] for cell in cells if cell in done]))
    print(text)
    if args.out:
        before, _, after = args.out.read_text().split(MARK)
        command = "python benchmarks/base_to_new.py " + " ".join(sys.argv[1:])
        stamp = f"`{command}` on {platform.machine()}, Python {platform.python_version()}\n"
        args.out.write_text(f"{before}{MARK}\n{stamp}\n{text}\n{MARK}{after}")


if __name__ == "__main__":
    main()
