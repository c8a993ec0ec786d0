"""Tables and pictures of docs/results-tables.md, from lines that `edge-qprompt bench` and p4q.py left in benchmarks/results.

    python benchmarks/results.py

The table "goals" is of differences to CoOp on average over the data sets, seed by seed. Its ceiling is the H of a method with
CoOp's base and zero-shot's new accuracy: all that giving back what CoOp takes from new classes can reach.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import p4q

from edge_qprompt.bench import pictures, report
from edge_qprompt.bench.cell import REVISION, Row
from edge_qprompt.bench.protocols import ABLATIONS, EPOCHS, MAIN, OWN_TEMPLATE, SHOWN
from edge_qprompt.classify.scores import harmonic_mean

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGE = DOCS / "results-tables.md"
RUNS = {  # folders of results, and where their zero-shot lines are
    "nano, 16 shots": ("", ""),
    "nano, 8 shots": ("shots-8", ""),
    "nano, 8 shots, 4 views": ("views", ""),
    "vit-mini, 16 shots": ("vit-mini", "vit-mini"),
    "vit-mini, 8 shots": ("shots-8-vit-mini", "vit-mini"),
    "vit-mini, 8 shots, 4 views": ("views-vit-mini", "vit-mini"),
}
COMPARED = ("ptq-coop", "qcoop", "qkgcoop", "qres", "qcoop+qres", "qkgcoop+qres")  # with CoOp

Means = Mapping[str, dict[int, float]]  # per cent by column and seed


def rows_of(path: Path) -> list[Row]:
    """All rows of a file: data sets as they come, methods as `bench` names them, noise and bits as the ablations do.

    Raises:
        SystemExit: rows of other defaults, or several of one cell.
    """
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    cells = {(row["data"], row["variant"], row["seed"], row["settings"].get("shots")) for row in rows}
    if len(cells) < len(rows) or any(row["revision"] != REVISION for row in rows):
        raise SystemExit(f"{path} has rows of an older revision, or two of one cell: remove them and run its command again")
    sets = list(dict.fromkeys(row["data"] for row in rows))
    main = [SHOWN.get(name, name) for name in MAIN]
    variants = list(EPOCHS.values()) if path.stem == "epochs" else [main[0], OWN_TEMPLATE, *main[1:], *ABLATIONS]
    return sorted(rows, key=lambda row: (sets.index(row["data"]), variants.index(row["variant"]), row["seed"]))


def main() -> None:
    """Put each table between its marks."""
    text = _put(PAGE.read_text(), "goals", goals())
    for path in sorted((HERE / "results").rglob("*.jsonl")):
        if path.parent.name == "p4q":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            text = _put(text, f"p4q-{path.stem}", p4q.tables(path.stem, json.loads(path.with_suffix(".json").read_text()), rows))
            continue
        protocol, rows = path.stem, rows_of(path)
        name = protocol if path.parent.name == "results" else f"{protocol}-{path.parent.name}"
        text = _put(text, name, folded(report.lines(protocol, rows)))
        if protocol == "ablation":
            text = _put(text, f"reclusterings-{path.parent.name}", report.reclusterings(rows))
        if path.parent.name in ("results", "vit-mini") or protocol == "ablation":
            pictures.plot(protocol, rows, DOCS / f"{name}.png")
    PAGE.write_text(text)


def folded(found: Sequence[report.Line]) -> list[str]:
    """The table: means alone where there are some, and single data sets folded away below."""
    means = [line for line in found if line.data in report.MEANS]
    if not means:
        return report.markdown(found)
    single = report.markdown([line for line in found if line.data not in report.MEANS])
    return [*report.markdown(means), "", "<details><summary>by data set</summary>", "", *single, "", "</details>", ""]


def means_of(folder: str) -> dict[str, Means]:
    """By method: base, new and H on average over all data sets."""
    path = HERE / "results" / folder / "base-to-new.jsonl"
    found = report.lines(path.stem, rows_of(path))
    return {line.variant: line.by_seed for line in found if line.data == report.MEAN}


def goals() -> list[str]:
    """The table of that name."""
    table = ["| run | method | base | new | H | joint H |", "| --- | --- | --- | --- | --- | --- |"]
    for run, (folder, zero_shot) in RUNS.items():
        means, known = means_of(folder), statistics.mean(means_of(zero_shot)["zero-shot"]["new"].values())
        coop = means["coop"]
        table.append(f"| {run} | CoOp | {' | '.join(_spread(coop[c]) for c in ('base', 'new', 'H', 'joint H'))} |")
        kept = {seed: known - value for seed, value in coop["new"].items()}
        ceiling = {seed: harmonic_mean(base, known) for seed, base in coop["base"].items()}
        table.append(f"| | ceiling | 0 | {_spread(kept, '+')} | {_spread(_less(ceiling, coop['H']), '+')} | |")
        for method in COMPARED:
            if method in means:
                parts = [_spread(_less(means[method][c], coop[c]), "+") for c in ("base", "new", "H", "joint H")]
                table.append(f"| | {method} | {' | '.join(parts)} |")
    return table


def _less(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    return {seed: one[seed] - other[seed] for seed in one.keys() & other.keys()}


def _spread(by_seed: dict[int, float], sign: str = "") -> str:
    values = by_seed.values()
    return report.spread(statistics.mean(values), min(values), max(values), sign)


def _put(text: str, name: str, lines: list[str]) -> str:
    """Replace what stands between two marks of a name."""
    mark = f"<!-- {name} -->"
    if text.count(mark) != 2:
        raise SystemExit(f"{PAGE} needs {mark} twice, around the table")
    before, _, after = text.split(mark)
    return before + "\n".join([mark, *lines, mark]) + after


if __name__ == "__main__":
    main()
