"""Tables and pictures of docs/results.md, from the lines that `edge-qprompt bench` and p4q.py have left in benchmarks/results.

python benchmarks/results.py
"""

from __future__ import annotations

import json
from pathlib import Path

import p4q

from edge_qprompt.bench import report
from edge_qprompt.bench.cell import Row
from edge_qprompt.bench.protocols import ABLATIONS, EPOCHS, MAIN, OWN_TEMPLATE

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGE = DOCS / "results.md"


def rows_of(path: Path) -> list[Row]:
    """All rows of a file: data sets as they come, methods as `bench` names them, noise and bits as the ablations do."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    sets = list(dict.fromkeys(row["data"] for row in rows))
    variants = list(EPOCHS.values()) if path.stem == "epochs" else [MAIN[0], OWN_TEMPLATE, *MAIN[1:], *ABLATIONS]
    return sorted(rows, key=lambda row: (sets.index(row["data"]), variants.index(row["variant"]), row["seed"]))


def main() -> None:
    """Put each table between its marks."""
    text = PAGE.read_text()
    for path in sorted((HERE / "results").rglob("*.jsonl")):
        if path.parent.name == "p4q":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            text = _put(text, f"p4q-{path.stem}", p4q.tables(path.stem, json.loads(path.with_suffix(".json").read_text()), rows))
            continue
        protocol, rows = path.stem, rows_of(path)
        name = protocol if path.parent.name == "results" else f"{protocol}-{path.parent.name}"
        text = _put(text, name, report.markdown(report.lines(protocol, rows)))
        if path.parent.name in ("results", "vit-mini"):
            report.plot(protocol, rows, DOCS / f"{name}.png")
    PAGE.write_text(text)


def _put(text: str, name: str, lines: list[str]) -> str:
    """Replace what stands between two marks of a name."""
    mark = f"<!-- {name} -->"
    if text.count(mark) != 2:
        raise SystemExit(f"{PAGE} needs {mark} twice, around the table")
    before, _, after = text.split(mark)
    return before + "\n".join([mark, *lines, mark]) + after


if __name__ == "__main__":
    main()
