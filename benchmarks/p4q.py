"""P4Q: what 8 and 4 bits cost an encoder in accuracy, and how much a prompt and an adapter give back.

    python benchmarks/p4q.py nano vit-mini/ --data ../shared/datasets/caltech101 ../shared/datasets/eurosat --work precisions/

Each backbone is quantized into --work, calibrated on training photos and class names of the data sets. All classes of a set are
learned from 16 photos each and measured on its test photos. Seeds choose the adapter's first weights; what has no adapter is
learned once. Finished cells are lines in --out and not run again. Speeds are measured in turn, in one process.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from edge_qprompt import Backbone
from edge_qprompt.bench.cell import Cell, Lines, Row, content_of
from edge_qprompt.dataset import load_dataset
from edge_qprompt.manifest import Manifest, image_onnx
from edge_qprompt.photo import decode_photo, read_photo, to_pixels
from edge_qprompt.speed import median_seconds
from exporter.quantize_command import PRECISIONS as QUANTIZED

PRECISIONS = ("fp32", *QUANTIZED)
METHODS = {
    "zero-shot": "zero-shot",
    "coop": "CoOp",
    "p4q-prompt": "prompt",
    "p4q-adapter": "adapter",
    "p4q": "P4Q",
    "qp4q": "P4Q, 1 bit",
    "p4q, trusting": "P4Q, teacher always trusted",
}
FULL = "coop"  # the full-precision learned prompt, which P4Q is compared with
SEEDED = ("p4q-adapter", "p4q", "qp4q")
PROTOCOL = "p4q"
PHOTOS = 64
ROUNDS = 15


def quantized(name: str, data: Sequence[Path], work: Path) -> Path:
    """The folder of a backbone with all precisions, made where it is missing."""
    from exporter.folder import folder_copy
    from exporter.quantize import add_precisions, sample_of

    source = Backbone.open(name)
    target = work / source.manifest.name
    if target.exists():
        return target
    sets = [load_dataset(folder) for folder in data]
    paths = [path for each in sets for path in each.train.paths]
    names = list(dict.fromkeys(name for each in sets for name in each.names))
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, PHOTOS).round().astype(int)]
    pixels = np.stack([to_pixels(decode_photo(read_photo(path)), source.manifest.preprocess) for path in chosen])
    sample = sample_of(source, pixels, names)
    with folder_copy(source.folder, source.manifest, target, replace=False) as folder:
        wanted = [each for each in QUANTIZED if each not in source.manifest.precisions]
        add_precisions(folder, source.manifest, wanted, sample, names, print)
    return target


def cells_of(folder: Path, data: Sequence[Path], seeds: Sequence[int], methods: Sequence[str]) -> list[Cell]:
    """All cells of a backbone, one seed after the other, so that a run cut short has whole seeds."""
    found = []
    content = {p: {place: content_of(Backbone.open(folder, p), [str(place)]) for place in data} for p in precisions_of(folder)}
    for seed in seeds:
        for place in data:
            for precision, contents in content.items():
                for method in methods:
                    if (seed == seeds[0] or method.partition(",")[0] in SEEDED) and (precision == "fp32" or method != FULL):
                        cell = Cell(PROTOCOL, method, str(place), "all", (str(place),), seed, settings=settings_of(method))
                        found.append(replace(cell, backbone=str(folder), precision=precision, content=contents[place]))
    return found


def precisions_of(folder: Path) -> list[str]:
    """Those of PRECISIONS that a folder has: int8 may have failed its gate."""
    return [name for name in PRECISIONS if name in Manifest.read(folder).precisions]


def settings_of(name: str) -> dict[str, object]:
    """Of a key of METHODS."""
    method, _, trusting = name.partition(", ")
    return {"method": method} | ({"trusting": True} if trusting else {})


def speeds(folder: Path) -> dict[str, float]:
    """Photos a second relative to fp32, one photo at a time on one core."""
    precisions = precisions_of(folder)
    backbones = [Backbone.open(folder, precision, threads=1) for precision in precisions]
    size = backbones[0].manifest.preprocess.size
    pixels = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
    seconds = median_seconds([partial(backbone.encode_images, pixels) for backbone in backbones], ROUNDS)
    return {precision: seconds[0] / mine for precision, mine in zip(precisions, seconds, strict=True)}


def table(folder: Path, rows: Sequence[Row], fast: dict[str, float]) -> list[str]:
    """Means over the data sets by precision and method; of several seeds, with the smallest and largest."""
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["precision"], row["variant"]][row["seed"]].extend(row["measured"].values())
    manifest = Manifest.read(folder)
    sets = len({row["data"] for row in rows})

    def cell(precision: str, method: str) -> str:
        means = [100 * float(np.mean(values)) for values in found[precision, method].values() if len(values) == sets]
        if not means:
            return ""
        return f"{np.mean(means):.1f}" + (f" ({min(means):.1f} to {max(means):.1f})" if len(means) > 1 else "")

    lines = [f"| {manifest.name} | MB | speed | " + " | ".join(METHODS.values()) + " |", "| --- " * (3 + len(METHODS)) + "|"]
    for precision in fast:
        size = manifest.files[image_onnx(precision)].bytes / 1e6
        accuracies = " | ".join(cell(precision, method) for method in METHODS)
        lines.append(f"| {precision} | {size:.1f} | {fast[precision]:.2f}x | {accuracies} |")
    return lines


def main() -> None:
    """Measure what is missing, then print a table a backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="+")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--work", type=Path, required=True, help="where quantized backbones are put, or lie")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/p4q"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    data = [folder.absolute() for folder in args.data]
    for name in args.backbones:
        folder = quantized(name, data, args.work.absolute())
        kept = Lines(args.out / f"{folder.name}.jsonl")
        cells = cells_of(folder, data, args.seeds, args.methods)
        for i, cell in enumerate(cells, 1):
            if cell not in kept:
                kept.add(cell.run())
                print(
                    f"{i} of {len(cells)}: {folder.name} {Path(cell.data).name} {cell.precision} {cell.variant} {cell.seed}",
                    flush=True,
                )
        rows = kept.of(cells_of(folder, data, args.seeds, list(METHODS)))
        print("\n".join(table(folder, rows, speeds(folder))))


if __name__ == "__main__":
    main()
