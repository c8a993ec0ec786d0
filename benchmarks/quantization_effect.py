"""Does a quantized prompt generalise better than a prompt in float? Quantized Prompt's main claim, with 16 photos a class.

    python benchmarks/quantization_effect.py ../shared/datasets --work effect/ --out docs/results.md

Zero-shot, CoOp and QCoOp as `edge-qprompt bench base-to-new` runs them, all settings at their defaults. With 16 photos of 16 the
default learning is the same whatever the seed (all photos in one step, from words), so a draw is of the classes: draw 0 learns
the first half of them, as the data set has them, every other one a random half. What is finished is kept in WORK, and not run
again.

The last lines are QCoOp less CoOp, draw by draw, and in how many draws QCoOp has more; draws whose new names are above chance (as
`bench` has it) stand apart from the others, where there is nothing to lose.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from timing import publish

from edge_qprompt import Backbone
from edge_qprompt.bench import Cell, Lines, Row, cells_of, content_of, report
from edge_qprompt.bench.openworld import above_chance

SETS = ("caltech101", "grocery81", "gym6", "pacs_photo")  # of the shared ones; nano knows objects, animals and food
METHODS = ("zero-shot", "coop", "qcoop")
COLUMNS = ("base", "new", "H", "joint H", report.OPENWORLD)
SHOTS = 16


def drawn(source: Path, draw: int, work: Path) -> Path:
    """A data set folder whose photos are links, with the classes in another order."""
    target = work / f"{source.name}-{draw}"
    rows = ["\t".join(line.split("\t")[1:3]) for line in (source / "classes.txt").read_text().splitlines()]
    order = np.random.default_rng([draw, len(rows)]).permutation(len(rows)) if draw else np.arange(len(rows))
    target.mkdir(parents=True, exist_ok=True)
    (target / "classes.txt").write_text("".join(f"{i}\t{rows[place]}\n" for i, place in enumerate(order)))
    for split in ("train", "test"):
        if not (target / split).exists():
            (target / split).symlink_to((source / split).absolute())
    return target


def cells(backbone: Backbone, folder: Path) -> Iterator[Cell]:
    """One for each method."""
    content = content_of(backbone, [str(folder)], "base")
    for cell in cells_of("base-to-new", [str(folder)], METHODS, [1], {}, [SHOTS]):
        yield replace(cell, backbone=str(backbone.folder), precision=backbone.precision, content=content)


def run(backbone: Backbone, folder: Path, kept: Lines) -> list[Row]:
    """The rows of a draw."""
    mine = [cell for cell in cells(backbone, folder) if cell.variant in METHODS]
    for cell in mine:
        if cell not in kept:
            kept.add(cell.run())
    return kept.of(mine)


def differences(rows: Sequence[Row]) -> list[str]:
    """QCoOp less CoOp, draw by draw: of each set, of all draws, of those whose new names are above chance, and of the others."""
    by_name = {(row["data"], row["seed"], row["variant"]): row for row in rows}
    every, above, near = "all draws", "new names above chance", "new names near chance"
    groups: dict[str, list[dict[str, float]]] = {
        name: [] for name in (*dict.fromkeys(row["data"] for row in rows), every, above, near)
    }
    for data, draw, variant in by_name:
        if variant == "qcoop":
            ours, theirs = (report.base_new(by_name[data, draw, method]) for method in ("qcoop", "coop"))
            less = {column: 100 * (ours[column] - theirs[column]) for column in COLUMNS}
            known = above_chance(**by_name[data, draw, variant]["new by hand"])
            for group in (data, every, above if known else near):
                groups[group].append(less)
    return [_difference(name, group) for name, group in groups.items() if group]


def _difference(name: str, group: Sequence[dict[str, float]]) -> str:
    parts = []
    for column in COLUMNS:
        less = [each[column] for each in group]
        wins = sum(each > 0 for each in less)
        parts.append(f"{report.spread(statistics.mean(less), min(less), max(less), '+')}, {wins} of {len(less)}")
    return f"| {name} | qcoop less coop | {' | '.join(parts)} |"


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown, of rows whose seed is the draw."""
    found = [line for line in report.lines("base-to-new", rows) if line.data not in (report.ABOVE, report.NOT_ABOVE)]
    lines = [f"| data set | | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for line in found:
        lines.append(f"| {line.data} | {line.variant} | {' | '.join(report.spread(*line.values[each]) for each in COLUMNS)} |")
    fired = report.fired_of(rows)["qcoop"]
    return [*lines, *differences(rows), "", f"QCoOp clustered again in {sum(map(bool, fired))} of {len(fired)} runs."]


def main() -> None:
    """Command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--work", type=Path, required=True, help="folder for links and finished lines")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    backbone = Backbone.open(options.backbone)
    kept, rows = Lines(options.work / "lines.jsonl"), []
    for name in options.sets:
        for draw in range(options.draws):
            folder = drawn(options.datasets / name, draw, options.work)
            rows += [row | {"data": name, "seed": draw} for row in run(backbone, folder, kept)]
    publish("quantization-effect", table(rows), "torch", out=options.out)


if __name__ == "__main__":
    main()
