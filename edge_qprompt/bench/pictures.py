"""Rows to pictures: means against each other, accuracy over photos, accuracy over the seconds from photos to a pack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_qprompt.bench import curves
from edge_qprompt.bench.cell import Row
from edge_qprompt.bench.report import MEAN, OPENWORLD, Line, columns_of, lines, shots_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Look = dict[str, Any]

MARKERS = "o^sDvP*X"
LEAST_SECONDS = 1e-3  # what rows say
LABELS = 18  # lines of small print beside axes of the least height
# of what was learned, and what else it is good for: accuracy on classes with photos, then among all names
SPEED_COLUMNS = {"base-to-new": ("base", "joint H"), "ablation": ("base", "joint H")}
PHOTO_COLUMNS = ("base", "new", "H", "joint H", OPENWORLD)


def plot(protocol: str, rows: Sequence[Row], path: Path) -> None:
    """A picture of the means: curves over epochs or shots, else base against new, else points by target."""
    if protocol == "epochs":
        return curves.plot(rows, path)
    found = _means_of(protocol, rows if protocol == "few-shot" else _at_most_photos(rows))
    with _figure(path, figsize=(9.5, 5)) as figure:
        axes = figure.subplots()
        if protocol in ("base-to-new", "ablation"):
            for i, line in enumerate(line for line in found if "new" in line.values):
                axes.scatter(line.values["base"][0], line.values["new"][0], marker=MARKERS[i % len(MARKERS)], label=line.variant)
            axes.set(xlabel="base classes, %", ylabel="new classes, %")
        else:
            columns = columns_of(found)
            for line in found:
                values = [line.values[column][0] if column in line.values else np.nan for column in columns]
                axes.plot(columns, values, "o-" if protocol == "few-shot" else "o", label=line.variant)
            axes.set(ylabel="accuracy, %")
            axes.tick_params(axis="x", rotation=20)
        axes.set_title(f"{protocol}, {found[0].data}")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", fontsize="small")


def over_photos(protocol: str, rows: Sequence[Row], path: Path) -> None:
    """Each column of the table over the number of photos a class, a curve a variant."""
    found = _means_of(protocol, rows)
    columns = [column for column in columns_of(found) if column in PHOTO_COLUMNS] or columns_of(found)
    numbers, looks = sorted({line.shots for line in found}), _looks(found)
    with _figure(path, figsize=(4 * min(len(columns), 3) + 2.5, 3.6 * -(-len(columns) // 3))) as figure:
        grid = figure.subplots(-(-len(columns) // 3), min(len(columns), 3), squeeze=False, sharex=True)
        for axes, column in zip(grid.flat, columns, strict=False):
            for variant, look in looks.items():
                points = [
                    (line.shots, line.values[column][0]) for line in found if line.variant == variant and column in line.values
                ]
                if points:
                    axes.plot(*zip(*sorted(points), strict=True), ms=4, lw=1.2, label=variant, **look)
            axes.set_xscale("log", base=2)
            axes.set_xticks(numbers, [str(number) for number in numbers], minor=False)
            axes.set(title=f"{column}, %")
            axes.tick_params(labelbottom=True)
            axes.grid(alpha=0.3)
        for axes in list(grid.flat)[len(columns) :]:
            axes.remove()
        figure.supxlabel("photos a class", fontsize="medium")
        figure.suptitle(f"{protocol}, {found[0].data}", fontsize="medium")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize="small")


def over_seconds(protocol: str, rows: Sequence[Row], path: Path) -> None:
    """Accuracy over the seconds from cached features to a pack (their median), at the greatest number of photos."""
    rows = _at_most_photos(rows)
    found = _means_of(protocol, rows)
    columns = SPEED_COLUMNS.get(protocol) or columns_of(found)[:1]
    looks = _looks(found)
    with _figure(path, figsize=(7 * len(columns), max(4.5, 0.24 * len(found) + 1))) as figure:
        for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            shown = [line for line in found if column in line.values]
            points = [(max(line.seconds, LEAST_SECONDS), line.values[column][0], line.variant) for line in shown]
            _labelled_points(axes, points, looks)
            axes.set(xlabel="seconds from cached features to a pack", ylabel=f"{column}, %")
        photos = max(map(shots_of, rows))
        figure.suptitle(f"{protocol}, {found[0].data}, {photos} photos a class", fontsize="medium")


def _labelled_points(axes: Axes, points: Sequence[tuple[float, float, str]], looks: Mapping[str, Look]) -> None:
    """Points (x, y) on a logarithmic x axis; their names in a column beside the axes, each led to its point by a line."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    points = sorted(points, key=lambda point: point[1])
    low, high = (of(y for _, y, _ in points) for of in (min, max))
    pad = 0.05 * (high - low) or 1.0
    axes.set(xscale="log", ylim=(low - pad, high + pad))
    # the formatter of logarithmic axes writes TeX, which is not read here
    axes.xaxis.set(
        major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter=FormatStrFormatter("%g")
    )
    for place, (x, y, name) in zip(spread_out([y for _, y, _ in points], low, high), points, strict=True):
        color = looks[name]["color"]
        axes.plot(x, y, **looks[name])
        axes.annotate(
            name,
            (x, y),
            (1.03, (place - low + pad) / (high - low + 2 * pad)),
            textcoords="axes fraction",
            va="center",
            fontsize="small",
            color=color,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "alpha": 0.6},
            annotation_clip=False,
        )
    axes.grid(alpha=0.3)


def spread_out(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Places near those that are wanted (in rising order), no two nearer than they would be if all were spread evenly."""
    gap = (high - low) / max(len(wanted) - 1, LABELS)
    places: list[float] = []
    for y in wanted:
        places.append(max(y, places[-1] + gap) if places else y)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], high if i == len(places) - 1 else places[i + 1] - gap)
    return places


def _at_most_photos(rows: Sequence[Row]) -> list[Row]:
    """Those learned from the greatest number of photos."""
    most = max(map(shots_of, rows))
    return [row for row in rows if shots_of(row) == most]


def _means_of(protocol: str, rows: Sequence[Row]) -> list[Line]:
    found = lines(protocol, rows)
    return [line for line in found if line.data == MEAN] or found


def _looks(found: Sequence[Line]) -> dict[str, Look]:
    """Colour, marker and line of each variant, the same wherever it is drawn."""
    variants = dict.fromkeys(line.variant for line in found)
    return {
        variant: {"color": f"C{i % 10}", "marker": MARKERS[i % len(MARKERS)], "ls": "-" if i < 10 else "--"}
        for i, variant in enumerate(variants)
    }


@contextmanager
def _figure(path: Path, figsize: tuple[float, float]) -> Iterator[Any]:
    """A figure that is written in the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"text.parse_math": False}):  # names of folders may hold dollars
        figure = pyplot.figure(figsize=figsize, layout="constrained")
        try:
            yield figure
            figure.savefig(path, dpi=120)
        finally:
            pyplot.close(figure)
