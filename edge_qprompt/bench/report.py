"""Rows to a table in Markdown and CSV, and to a picture. Accuracies in per cent: the mean over seeds, and how far they spread."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_qprompt.bench import curves
from edge_qprompt.bench.cell import Row
from edge_qprompt.classify import harmonic_mean

MEAN = "mean"
Columns = Callable[[Row], dict[str, float]]


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        data: set that was learned on, or MEAN.
        variant: e.g. the method.
        prompt_bytes: of what is learned, as the paper counts it.
        by_seed: per cent by column and seed.
    """

    data: str
    variant: str
    prompt_bytes: float
    by_seed: dict[str, dict[int, float]]

    @property
    def values(self) -> dict[str, tuple[float, float, float]]:
        """Per cent by column: mean, least and greatest over seeds."""
        return {column: (statistics.mean(v), min(v), max(v)) for column, each in self.by_seed.items() if (v := each.values())}


def base_new(row: Row) -> dict[str, float]:
    """base, new and their harmonic mean, each half among its own classes; then all of it among all classes."""
    m = row["measured"]
    return {
        "base": m["base"],
        "new": m["new"],
        "H": harmonic_mean(m["base"], m["new"]),
        "joint base": m["joint base"],
        "joint new": m["joint new"],
        "joint H": harmonic_mean(m["joint base"], m["joint new"]),
    }


def by_shots(row: Row) -> dict[str, float]:
    """Accuracy under the number of shots."""
    (accuracy,) = row["measured"].values()
    shots = row["settings"]["shots"]
    return {f"{shots} shot{'s' * (shots > 1)}": accuracy}


def by_target(row: Row) -> dict[str, float]:
    """Accuracy by data set, and the mean of those that were not learned on."""
    measured: dict[str, float] = row["measured"]
    others = [accuracy for name, accuracy in measured.items() if name != row["data"]]
    return measured | {"mean of the others": statistics.mean(others)}


def by_epoch(row: Row) -> dict[str, float]:
    """Base and new accuracy at each quarter of the epochs."""
    curve: list[dict[str, float]] = row["curve"]
    quarters = [curve[len(curve) * part // 4 - 1] for part in (1, 2, 3, 4)]
    return {f"{part} at {point['epoch']}": point[part] for part in ("base", "new") for point in quarters}


COLUMNS: dict[str, Columns] = {
    "base-to-new": base_new,
    "ablation": base_new,
    "epochs": by_epoch,
    "few-shot": by_shots,
    "domain": by_target,
    "cross-dataset": by_target,
}


def lines(protocol: str, rows: Sequence[Row]) -> list[Line]:
    """One for each data set and variant, in the order of the rows; then the means over data sets, of variants that have all."""
    cells: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    sizes: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row["data"], row["variant"]
        sizes[key] = row["prompt_bytes"]
        for column, value in COLUMNS[protocol](row).items():
            cells.setdefault(key, {}).setdefault(column, {})[row["seed"]] = 100 * value
    found = [Line(*key, sizes[key], columns) for key, columns in cells.items()]
    sets = {line.data for line in found}
    by_variant = [[line for line in found if line.variant == v] for v in dict.fromkeys(line.variant for line in found)]
    return found + [_mean(group) for group in by_variant if len(sets) > 1 and len(group) == len(sets)]


def _mean(of: Sequence[Line]) -> Line:
    """Over data sets, seed by seed where all have the same ones. As the papers do: H is that of the mean accuracies."""
    values: dict[str, dict[int, float]] = {}
    for column, first in of[0].by_seed.items():
        each = [line.by_seed[column] for line in of]
        if all(one.keys() == first.keys() for one in each):
            values[column] = {seed: statistics.mean(one[seed] for one in each) for seed in first}
        else:
            values[column] = {0: statistics.mean(statistics.mean(one.values()) for one in each)}
    for prefix in ("", "joint "):
        if f"{prefix}H" in values:
            base, new = values[f"{prefix}base"], values[f"{prefix}new"]
            values[f"{prefix}H"] = {seed: harmonic_mean(base[seed], new[seed]) for seed in base}
    sizes = {line.prompt_bytes for line in of}
    return Line(MEAN, of[0].variant, sizes.pop() if len(sizes) == 1 else -1.0, values)


def markdown(found: Sequence[Line]) -> list[str]:
    """The table."""
    columns = list(found[0].values)
    head = ["data set", "variant", "learned", *columns]
    table = [_row(head), _row(["---"] * len(head))]
    for line in found:
        name = f"**{line.data}**" if line.data == MEAN else line.data
        size = f"{line.prompt_bytes:.0f} B" if line.prompt_bytes >= 0 else "by classes"
        table.append(_row([name, line.variant, size, *(spread(*line.values[column]) for column in columns)]))
    return table


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def spread(mean: float, least: float, greatest: float, sign: str = "") -> str:
    """A mean, and behind it how far its seeds are apart, if that is a tenth of a point or more; sign "+" is for differences."""
    parts = [f"{value:{sign}.1f}" for value in (mean, least, greatest)]
    return parts[0] if greatest - least < 0.1 else f"{parts[0]} ({parts[1]} to {parts[2]})"


def as_csv(found: Sequence[Line]) -> str:
    """The same numbers, unrounded."""
    columns = list(found[0].values)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("mean", "least", "greatest")
    writer.writerow(["data", "variant", "prompt_bytes", *(f"{column} {part}" for column in columns for part in parts)])
    for line in found:
        writer.writerow([line.data, line.variant, line.prompt_bytes, *(v for column in columns for v in line.values[column])])
    return text.getvalue()


def plot(protocol: str, rows: Sequence[Row], path: Path) -> None:
    """A picture of the means: curves over epochs or shots, else base against new, else points by target."""
    if protocol == "epochs":
        return curves.plot(rows, path)
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context({"text.parse_math": False}):  # names of folders may hold dollars
        _plot_means(protocol, lines(protocol, rows), path)


def _plot_means(protocol: str, found: Sequence[Line], path: Path) -> None:
    from matplotlib import pyplot

    shown = [line for line in found if line.data == MEAN] or found
    figure, axes = pyplot.subplots(figsize=(9.5, 5), layout="constrained")
    if protocol in ("base-to-new", "ablation"):
        for i, line in enumerate(shown):
            axes.scatter(line.values["base"][0], line.values["new"][0], marker="o^sDvP*X"[i % 8], label=line.variant)
        axes.set(xlabel="base classes, %", ylabel="new classes, %")
    else:
        columns = list(shown[0].values)
        for line in shown:
            axes.plot(
                columns,
                [line.values[column][0] for column in columns],
                "o-" if protocol == "few-shot" else "o",
                label=line.variant,
            )
        axes.set(ylabel="accuracy, %")
        axes.tick_params(axis="x", rotation=20)
    axes.set_title(f"{protocol}, {shown[0].data}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
