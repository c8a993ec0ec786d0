"""Rows to a table in Markdown and CSV, and what has to be said under it.

Accuracies are in per cent: the mean over seeds, and how far they spread.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_qprompt.bench.cell import Row
from edge_qprompt.bench.openworld import ONE_SIDED, above_chance
from edge_qprompt.bench.protocols import CAC, SHOWN
from edge_qprompt.bench.regression import REGRESSION
from edge_qprompt.classify import harmonic_mean
from edge_qprompt.learn import AdaptSettings

MEAN = "mean"
ABOVE, NOT_ABOVE = "mean, new names above chance", "mean, new names near chance"
MEANS = (MEAN, ABOVE, NOT_ABOVE)
OPENWORLD = "OpenworldAUC"
Columns = Callable[[Row], dict[str, float]]


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        data: set that was learned on, or one of MEANS.
        variant: e.g. the method.
        shots: photos a class; 0 where they are the columns.
        prompt_bytes: of what is learned, as the paper counts it.
        seconds: from features to a pack, the median over seeds; of means over all of theirs.
        by_seed: per cent by column and seed.
    """

    data: str
    variant: str
    shots: int
    prompt_bytes: float
    seconds: float
    by_seed: dict[str, dict[int, float]]

    @property
    def values(self) -> dict[str, tuple[float, float, float]]:
        """Per cent by column: mean, least and greatest over seeds."""
        return {column: (statistics.mean(v), min(v), max(v)) for column, each in self.by_seed.items() if (v := each.values())}


def base_new(row: Row) -> dict[str, float]:
    """base, new and their harmonic mean, each half among its own classes; then all of it among all classes; then OpenworldAUC.

    What knows no new names has base alone, and rows of before it was measured have no OpenworldAUC.
    """
    m = row["measured"]
    found = {"base": m["base"]}
    if "new" in m:
        found |= {"new": m["new"], "H": harmonic_mean(m["base"], m["new"])}
        joint = {f"joint {part}": m[f"joint {part}"] for part in ("base", "new")}
        found |= joint | {"joint H": harmonic_mean(*joint.values())}
    return found | ({OPENWORLD: m["openworld"]} if "openworld" in m else {})


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
    """Of each data set, variant and number of photos; then their means over all data sets, if there are several; then those over
    data sets whose new names say something, and over the others, if there are both."""
    cells: dict[tuple[str, str, int], dict[str, dict[int, float]]] = {}
    sizes: dict[tuple[str, str, int], float] = {}
    seconds: dict[tuple[str, str, int], list[float]] = {}
    never = protocol == "ablation" and not any(fired_of(rows).get(CAC, []))
    for row in rows:
        variant = f"{CAC} (never fires)" if never and row["variant"] == CAC else row["variant"]
        key = (row["data"], variant, 0 if protocol == "few-shot" else shots_of(row))
        sizes[key] = row["prompt_bytes"]
        seconds.setdefault(key, []).append(row["seconds"])
        for column, value in COLUMNS[protocol](row).items():
            cells.setdefault(key, {}).setdefault(column, {})[row["seed"]] = 100 * value
    found = [Line(*key, sizes[key], statistics.median(seconds[key]), columns) for key, columns in cells.items()]
    above, near = names_that_say_something(rows)
    groups = {MEAN: {line.data for line in found}} | ({ABOVE: above, NOT_ABOVE: near} if above and near else {})
    return found + [mean for name, sets in groups.items() if len(groups[MEAN]) > 1 for mean in _means(name, found, sets)]


def shots_of(row: Row) -> int:
    """Photos a class that a row was learned from, at most."""
    return int(row["settings"].get("shots", AdaptSettings.shots))


def names_that_say_something(rows: Sequence[Row]) -> tuple[set[str], set[str]]:
    """Data sets whose new names are above chance by the hand-written prompt, and the others; none where it was not measured."""
    seen = {row["data"]: above_chance(**row["new by hand"]) for row in rows if "new by hand" in row}
    if {row["data"] for row in rows} != seen.keys():
        return set(), set()
    return {data for data, above in seen.items() if above}, {data for data, above in seen.items() if not above}


def _means(name: str, found: Sequence[Line], sets: set[str]) -> list[Line]:
    """A line of each variant and number of photos that all of some data sets have."""
    groups: dict[tuple[str, int], list[Line]] = {}
    for line in found:
        if line.data in sets:
            groups.setdefault((line.variant, line.shots), []).append(line)
    return [replace(_mean(group), data=name) for group in groups.values() if len(group) == len(sets)]


def _mean(of: Sequence[Line]) -> Line:
    """Over data sets, seed by seed where all have the same ones. As the papers do: H is that of the mean accuracies."""
    values: dict[str, dict[int, float]] = {}
    for column, first in of[0].by_seed.items():
        if any(column not in line.by_seed for line in of):
            continue
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
    size, seconds = sizes.pop() if len(sizes) == 1 else -1.0, statistics.median(line.seconds for line in of)
    return Line(MEAN, of[0].variant, of[0].shots, size, seconds, values)


def columns_of(found: Sequence[Line]) -> list[str]:
    """All columns, in the order in which they come."""
    return list(dict.fromkeys(column for line in found for column in line.by_seed))


def markdown(found: Sequence[Line]) -> list[str]:
    """The table."""
    columns = columns_of(found)
    draws = len({line.shots for line in found}) > 1
    head = ["data set", "variant", *(["photos"] if draws else []), "learned", *columns]
    table = [_row(head), _row(["---"] * len(head))]
    for line in found:
        name = f"**{line.data}**" if line.data in MEANS else line.data
        size = f"{line.prompt_bytes:.0f} B" if line.prompt_bytes >= 0 else "by classes"
        values = [spread(*line.values[column]) if column in line.values else "" for column in columns]
        table.append(_row([name, line.variant, *([str(line.shots)] if draws else []), size, *values]))
    return table


def notes(protocol: str, rows: Sequence[Row]) -> list[str]:
    """What has to be said under the table, as Markdown; of an ablation also how often prompts were clustered again."""
    said = []
    if protocol in ("base-to-new", "ablation"):
        said += [*_openworld_note(rows), *_chance_note(rows)]
    if SHOWN[REGRESSION] in {row["variant"] for row in rows}:
        said.append(
            f"{SHOWN[REGRESSION]}: scikit-learn's, on the same features, C by cross-validation over the photos; it is no method, "
            "has no pack, and knows no names without photos."
        )
    found = [line for paragraph in said for line in ("", paragraph)]
    if protocol == "ablation":
        found += ["", "How often prompts were clustered again, of all data sets and seeds:", "", *reclusterings(rows)]
    return found


def _openworld_note(rows: Sequence[Row]) -> list[str]:
    if not any("openworld" in row["measured"] for row in rows):
        return []
    return [
        f"{OPENWORLD}: how often, of a random base photo and a random new one, the base one leans to the base labels more than "
        "the new one, and both are labelled right within their own half (arXiv 2505.05180)."
    ]


def _chance_note(rows: Sequence[Row]) -> list[str]:
    above, near = names_that_say_something(rows)
    if not above | near:
        return []
    return [
        f"New names above chance: {', '.join(sorted(above)) or 'none'}; near chance: {', '.join(sorted(near)) or 'none'}. "
        f'Above is where the hand-written prompt "a photo of a {{}}." labels new photos right among the C new classes more often '
        f"than 1 / C by more than {ONE_SIDED} standard errors of guessing. Near chance, new accuracy says nothing of a method."
    ]


def reclusterings(rows: Sequence[Row]) -> list[str]:
    """How often each variation that clusters again did, as a table: the runs of all data sets and seeds together."""
    table = ["| variant | runs | with any | on average | at most |", "| --- | --- | --- | --- | --- |"]
    for variant, fired in fired_of(rows).items():
        if any(fired) or variant == CAC:
            shown = (len(fired), sum(map(bool, fired)), f"{statistics.mean(fired):.1f}", max(fired))
            table.append(f"| {variant} | {' | '.join(map(str, shown))} |")
    return table


def fired_of(rows: Sequence[Row]) -> dict[str, list[int]]:
    """How often the prompt was clustered again in each run, by variant; a run's `looks` say when."""
    found: dict[str, list[int]] = {}
    for row in rows:
        looks = row["facts"].get("looks", [])
        found.setdefault(row["variant"], []).append(sum(bool(again) for _, _, again in looks))
    return found


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def spread(mean: float, least: float, greatest: float, sign: str = "") -> str:
    """A mean, and behind it how far its seeds are apart, if that is a tenth of a point or more; sign "+" is for differences."""
    parts = [f"{value:{sign}.1f}" for value in (mean, least, greatest)]
    return parts[0] if greatest - least < 0.1 else f"{parts[0]} ({parts[1]} to {parts[2]})"


def as_csv(found: Sequence[Line]) -> str:
    """The same numbers, unrounded; empty where there are none."""
    columns = columns_of(found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("mean", "least", "greatest")
    writer.writerow(
        ["data", "variant", "shots", "prompt_bytes", "seconds", *(f"{column} {part}" for column in columns for part in parts)]
    )
    for line in found:
        values = [value for column in columns for value in line.values.get(column, ("",) * len(parts))]
        writer.writerow([line.data, line.variant, line.shots or "", line.prompt_bytes, line.seconds, *values])
    return text.getvalue()
