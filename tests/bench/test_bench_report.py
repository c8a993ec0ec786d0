"""Tables and pictures from rows: sets whose new names say something, numbers of photos, gaps, what fires, names of points."""

from __future__ import annotations

import csv
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_qprompt.bench import pictures, report
from edge_qprompt.bench.pictures import LABELS, spread_out
from edge_qprompt.bench.protocols import CAC, SHOWN
from edge_qprompt.bench.regression import REGRESSION

LOGISTIC = SHOWN[REGRESSION]
SAYING = {"accuracy": 0.7, "photos": 100, "classes": 5}
MUTE = {"accuracy": 0.2, "photos": 100, "classes": 5}


def row(data: str, variant: str, base: float, new: float | None = None, shots: int | None = None, **more: Any) -> dict[str, Any]:
    """Of base-to-new."""
    measured = {"base": base}
    if new is not None:
        measured |= {"new": new, "joint base": base / 2, "joint new": new / 2, "openworld": base * new * 0.8}
    settings = {} if shots is None else {"shots": shots}
    common = {"seed": 1, "prompt_bytes": 10.0, "seconds": 1.0, "facts": {}, "new by hand": SAYING}
    return {"data": data, "variant": variant, "settings": settings, "measured": measured} | common | more


def means(found: list[report.Line]) -> dict[tuple[str, str], float]:
    return {(line.data, line.variant): line.values["new"][0] for line in found if line.data in report.MEANS}


def test_sets_whose_new_names_say_something_have_a_mean_of_their_own() -> None:
    rows = [row("a", "coop", 0.9, 0.8), row("b", "coop", 0.9, 0.6), row("c", "coop", 0.9, 0.1, **{"new by hand": MUTE})]
    found = means(report.lines("base-to-new", rows))
    assert found == pytest.approx({("mean", "coop"): 50, (report.ABOVE, "coop"): 70, (report.NOT_ABOVE, "coop"): 10})
    (note,) = [line for line in report.notes("base-to-new", rows) if "chance: " in line]
    assert "New names above chance: a, b; near chance: c." in note
    assert "1 / C by more than 1.645 standard errors" in note


def test_a_method_that_one_group_has_in_full_has_a_mean_there() -> None:
    rows = [row(data, "coop", 0.9, 0.8) for data in "abc"] + [row("c", "qres", 0.5, 0.3)]
    for each in rows:
        each["new by hand"] = MUTE if each["data"] == "c" else SAYING
    assert {variant for data, variant in means(report.lines("base-to-new", rows)) if data == report.NOT_ABOVE} == {"coop", "qres"}
    assert {variant for data, variant in means(report.lines("base-to-new", rows)) if data == report.ABOVE} == {"coop"}


def test_groups_want_both_kinds_and_rows_that_say_so() -> None:
    alike = [row("a", "coop", 0.9, 0.8), row("b", "coop", 0.9, 0.6)]
    assert means(report.lines("base-to-new", alike)).keys() == {("mean", "coop")}
    old = [row("a", "coop", 0.9, 0.8), row("b", "coop", 0.9, 0.1, **{"new by hand": MUTE})]
    del old[0]["new by hand"]
    assert means(report.lines("base-to-new", old)).keys() == {("mean", "coop")}
    assert not any("chance" in line for line in report.notes("base-to-new", old))


def test_what_has_no_new_accuracy_has_empty_cells() -> None:
    rows = [row(data, variant, 0.9, new) for data in "ab" for variant, new in (("coop", 0.8), (LOGISTIC, None))]
    found = report.lines("base-to-new", rows)
    table = report.markdown(found)
    assert table[0].split("|")[4:-1] == [
        f" {name} " for name in ("base", "new", "H", "joint base", "joint new", "joint H", "OpenworldAUC")
    ]
    (line,) = [line for line in table if LOGISTIC in line and "mean" in line]
    assert [cell.strip() for cell in line.split("|")[4:-1]] == ["90.0", *[""] * 6]
    lines = {(line["data"], line["variant"]): line for line in csv.DictReader(report.as_csv(found).splitlines())}
    assert lines["mean", LOGISTIC]["OpenworldAUC mean"] == ""
    assert float(lines["mean", "coop"]["OpenworldAUC mean"]) == pytest.approx(100 * 0.9 * 0.8 * 0.8)
    assert any("no method, has no pack" in note for note in report.notes("base-to-new", rows))


def test_rows_of_before_something_was_measured_have_no_mean_of_it() -> None:
    rows = [row("a", "coop", 0.9, 0.8), row("b", "coop", 0.7, 0.6)]
    del rows[1]["measured"]["openworld"]
    found = {line.data: line.values for line in report.lines("base-to-new", rows)}
    assert [report.OPENWORLD in found[data] for data in ("a", "b", "mean")] == [True, False, False]
    assert found["mean"]["base"][0] == pytest.approx(80)


def test_the_order_of_methods_decides_no_column() -> None:
    rows = [row("a", LOGISTIC, 0.9), row("a", "coop", 0.9, 0.8)]
    assert report.markdown(report.lines("base-to-new", rows))[3].split("|")[5].strip() == "80.0"


def test_several_numbers_of_photos_are_lines_of_their_own() -> None:
    rows = [row(data, "coop", base, 0.5, shots) for data in "ab" for shots, base in ((2, 0.4), (8, 0.6))]
    found = report.lines("base-to-new", rows)
    assert [(line.data, line.shots, line.values["base"][0]) for line in found if line.data == "mean"] == [
        ("mean", 2, pytest.approx(40)),
        ("mean", 8, pytest.approx(60)),
    ]
    assert report.markdown(found)[0].split("|")[3].strip() == "photos"
    assert "photos" not in report.markdown(report.lines("base-to-new", rows[:1]))[0]


def looked(*fired: bool) -> dict[str, Any]:
    return {"facts": {"reclusterings": sum(fired), "looks": [[10 * i, 0.5, each] for i, each in enumerate(fired)]}}


def test_an_ablation_says_whether_its_clustering_fires() -> None:
    never = [row("a", CAC, 0.9, 0.8, **looked(False, False)), row("a", "T_KL x 0.1", 0.9, 0.8, **looked(True, True, False))]
    assert [line.variant for line in report.lines("ablation", never)] == [f"{CAC} (never fires)", "T_KL x 0.1"]
    said = report.notes("ablation", never)
    assert f"| {CAC} | 1 | 0 | 0.0 | 0 |" in said
    assert "| T_KL x 0.1 | 1 | 1 | 2.0 | 2 |" in said
    once = [*never, row("b", CAC, 0.9, 0.8, **looked(True)), row("b", "T_KL x 0.1", 0.9, 0.8, **looked(False))]
    assert {line.variant for line in report.lines("ablation", once)} == {CAC, "T_KL x 0.1"}
    assert f"| {CAC} | 2 | 1 | 0.5 | 1 |" in report.notes("ablation", once)


def drawn(path: Path, picture: Any, *arguments: Any) -> list[str]:
    """The words of a picture."""
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        picture(*arguments, path)
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_accuracy_over_seconds_names_every_method_and_its_time(tmp_path: Path) -> None:
    rows = [
        row("a", "qgda", 0.9, 0.8, 16, seconds=0.3),
        row("a", "coop", 0.7, 0.8, 16, seconds=20.0),
        row("a", LOGISTIC, 0.9, None, 16, seconds=1.0),
        row("a", "few", 0.1, 0.1, 2, seconds=1.0),
    ]
    words = drawn(tmp_path / "seconds.svg", pictures.over_seconds, "base-to-new", rows)
    assert [words.count(name) for name in ("qgda", "coop", LOGISTIC, "few")] == [2, 2, 1, 0]
    assert {"0.5", "1", "10", "20"} <= set(words)
    assert "base-to-new, a, 16 photos a class" in words
    assert not any("$" in word for word in words)


def test_accuracy_over_photos_has_a_curve_a_method(tmp_path: Path) -> None:
    rows = [row("a", name, shots / 20, new, shots) for name, new in (("qgda", 0.5), (LOGISTIC, None)) for shots in (1, 4, 16)]
    words = drawn(tmp_path / "photos.svg", pictures.over_photos, "base-to-new", rows)
    assert {"base, %", "OpenworldAUC, %", "qgda", LOGISTIC, "photos a class"} <= set(words)
    assert [word for word in words if word in {"1", "2", "4", "8", "16"}][:3] == ["1", "4", "16"]


@given(st.lists(st.floats(10, 90), min_size=1, max_size=30))
def test_names_of_points_do_not_overlap_and_keep_their_order(wanted: list[float]) -> None:
    wanted = sorted(wanted)
    low, high = wanted[0], wanted[-1]
    places = spread_out(wanted, low, high)
    gap = min((high - low) / LABELS, (high - low) / max(len(wanted) - 1, 1))
    assert all(second - first >= gap - 1e-6 for first, second in pairwise(places))
    assert low - 1e-6 <= places[0]
    assert places[-1] <= high + 1e-6
