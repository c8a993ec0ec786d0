"""P4Q: what 8 and 4 bits cost an encoder in accuracy, and how much a prompt and an adapter give back.

    python benchmarks/p4q.py nano vit-mini/ --data ../shared/datasets/caltech101 ../shared/datasets/eurosat --work precisions/

Each backbone is quantized into --work, calibrated on training photos and class names of the data sets. All classes of a set are
learned from 16 photos each and measured on its test photos. Seeds choose the adapter's first weights; what has no adapter is
learned once. Finished cells are lines in --out and not run again; speeds, measured in turn in one process, lie beside them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from edge_qprompt import Backbone
from edge_qprompt.backbone.manifest import Manifest, image_onnx
from edge_qprompt.backbone.speed import median_seconds
from edge_qprompt.bench import report
from edge_qprompt.bench.cell import Cell, Lines, Row, content_of
from edge_qprompt.files import write_whole
from edge_qprompt.photos.dataset import load_dataset
from edge_qprompt.photos.photo import decode_photo, read_photo, to_pixels
from exporter.commands.quantize import PRECISIONS as QUANTIZED

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
N_CTX = 4
PHOTOS = 64
ROUNDS = 15

Encoders = dict[str, dict[str, float]]  # by precision


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
    return {"method": method, "n_ctx": N_CTX} | ({"trusting": True} if trusting else {})


def encoders(folder: Path) -> Encoders:
    """Bytes of each image encoder, and photos a second relative to fp32, one photo at a time on one core."""
    manifest, precisions = Manifest.read(folder), precisions_of(folder)
    backbones = [Backbone.open(folder, precision, threads=1) for precision in precisions]
    size = manifest.preprocess.size
    pixels = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
    seconds = median_seconds([partial(backbone.encode_images, pixels) for backbone in backbones], ROUNDS)
    return {
        precision: {"bytes": manifest.files[image_onnx(precision)].bytes, "speed": seconds[0] / mine}
        for precision, mine in zip(precisions, seconds, strict=True)
    }


def tables(name: str, measured: Encoders, rows: Sequence[Row]) -> list[str]:
    """Markdown: means over the data sets by precision and method, then each data set.

    Where there are several seeds, their mean and in brackets the least and the greatest.

    Args:
        name: of the backbone.
        measured: of `encoders`.
        rows: lines of JSON.
    """
    found: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)  # by data set, precision, method, seed
    for row in rows:
        (found[row["data"], row["precision"], row["variant"]][row["seed"]],) = row["measured"].values()
    sets = list(dict.fromkeys(row["data"] for row in rows))
    shown = [method for method in METHODS if any(key[2] == method for key in found)]

    def cells(among: Sequence[str], precision: str) -> str:
        return " | ".join(_mean([found[data, precision, method] for data in among]) for method in shown)

    titles = " | ".join(METHODS[method] for method in shown)
    lines = [f"| {name} | MB | speed | {titles} |", "| --- " * (3 + len(shown)) + "|"]
    for precision, each in measured.items():
        lines.append(f"| {precision} | {each['bytes'] / 1e6:.1f} | {each['speed']:.2f}x | {cells(sets, precision)} |")
    lines += ["", f"| data set | {name} | {titles} |", "| --- " * (2 + len(shown)) + "|"]
    lines += [f"| {data} | {precision} | {cells([data], precision)} |" for data in sets for precision in measured]
    return lines


def _mean(by_seed: Sequence[Mapping[int, float]]) -> str:
    """Mean over data sets, of each seed that all of them have."""
    seeds = set.intersection(*(set(each) for each in by_seed))
    means = [100 * float(np.mean([each[seed] for each in by_seed])) for seed in sorted(seeds)]
    return report.spread(float(np.mean(means)), min(means), max(means)) if means else ""


def main() -> None:
    """Measure what is missing, then print the tables of each backbone."""
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
        measured = encoders(folder)
        write_whole(args.out / f"{folder.name}.json", json.dumps(measured, indent=1).encode())
        print("\n".join(tables(folder.name, measured, kept.of(cells_of(folder, data, args.seeds, list(METHODS))))))


if __name__ == "__main__":
    main()
