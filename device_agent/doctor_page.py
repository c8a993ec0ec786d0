"""What `doctor` found, as one HTML page that needs nothing else, in the make of `adapt`'s report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from device_agent.advice import POINTS, Finding, findings, growth_lines
from device_agent.html_page import document, draw, section, table, thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edge_qprompt.learn import Diagnosis, Growth

SHOWN = 24  # lines of a kind, with their photos
SHOWN_OF_ONE = 4  # photos of a line
CLASSES = 20  # of the chart
GREEN, GREY = "#0b6b58", "#b9c2be"


def page(found: Diagnosis, facts: Sequence[tuple[str, str]], root: str) -> str:
    """The page.

    Args:
        found: of `diagnose`.
        facts: what the table at the top says, name and value.
        root: folder that paths are shown from.
    """
    kinds = findings(found, root)
    parts = [table(facts)]
    parts += [section(f"{kind.title.capitalize()}: {kind.count}", _finding(kind)) for kind in kinds]
    if not kinds:
        parts.append("<p>Nothing is wrong that could be told.</p>")
    if found.growth:
        parts.append(section("What more photos would bring", _growth(found.growth)))
    if found.unknown:
        parts.append(section("What cannot be known", _list(found.unknown)))
    return document("edge-qprompt: what is wrong with these photos", parts)


def _finding(kind: Finding) -> str:
    note = f"<p class=note>{escape(kind.advice)}</p>"
    if not kind.photos:
        return note + _list(kind.lines[:SHOWN]) + _rest(kind)
    items = []
    for line, photos in zip(kind.lines[:SHOWN], kind.photos, strict=False):
        items.append(f"<li>{''.join(thumbnail(photo.path) for photo in photos[:SHOWN_OF_ONE])}{escape(line)}</li>")
    return note + f"<ul class=photos>{''.join(items)}</ul>" + _rest(kind)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _rest(kind: Finding) -> str:
    more = len(kind.lines) - SHOWN
    return f"<p class=note>and {more} more: --json names all</p>" if more > 0 else ""


def _growth(growth: Growth) -> str:
    lines = _list(growth_lines(growth))
    return _curve(growth) + lines + (_gains(growth) if any(gain.gain for gain in growth.gains) else "")


def _curve(growth: Growth) -> str:
    photos = [point.photos for point in growth.curve]
    right = [POINTS * point.accuracy for point in growth.curve]
    margins = [2 * POINTS * point.error for point in growth.curve]

    def plot(axes: Axes) -> None:
        axes.errorbar(photos, right, yerr=margins, fmt="o-", color=GREEN, ecolor=GREY, capsize=3, label="measured, +- 2 errors")
        ticks = photos
        if growth.doubled is not None:
            ticks = [*photos, 2 * photos[-1]]
            axes.plot(ticks[-2:], [right[-1], POINTS * growth.doubled], "o--", color=GREEN, mfc="white", label="foreseen")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel="photos a class", ylabel="% right of photos left out")
        axes.grid(alpha=0.3)
        axes.legend()

    said = ", ".join(f"{many:.0f}: {share:.1f} %" for many, share in zip(photos, right, strict=True))
    return draw(f"accuracy by photos a class, {said}", 8, 3.2, plot)


def _gains(growth: Growth) -> str:
    shown = growth.gains[:CLASSES][::-1]
    names = [f"{gain.name} ({gain.photos})" for gain in shown]

    def plot(axes: Axes) -> None:
        colours = [GREEN if gain.stands_out else GREY for gain in shown]
        gains, errors = [POINTS * gain.gain for gain in shown], [POINTS * gain.error for gain in shown]
        axes.barh(range(len(shown)), gains, xerr=errors, color=colours, ecolor="#55605c", capsize=2)
        axes.set_yticks(range(len(shown)), names)
        axes.set(xlabel="points of accuracy, over all classes, that half of the class's photos have brought; +- 1 error")
        axes.grid(alpha=0.3, axis="x")

    said = ", ".join(f"{gain.name} {POINTS * gain.gain:.2f}" for gain in growth.gains[:CLASSES])
    return draw(f"points that half of each class's photos have brought: {said}", 8, 1.2 + 0.28 * len(shown), plot)
