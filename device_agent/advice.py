"""What is said of each finding of `doctor`, and what to do about it: one wording for the terminal and the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_qprompt.learn import Diagnosis, Growth, Mislabelled, Overlap, Poor, Rare, Seen, Twins
    from edge_qprompt.photos import Source

POINTS = 100  # of an accuracy from 0 to 1
MOST_NAMED = 3  # classes of which more would help most
ALIKE = 0.1  # points, between what ten more photos of two classes bring
MOST_SURE = 99  # percent: a probability that was estimated is never all
SAME = {
    "two classes": ("in two classes", "keep each in the class that it shows"),
    "train and test": ("in train and test", "remove one of each, else test/ says more than is true"),
    "twice": ("there twice", "one is enough, another view would teach more"),
}
FAULTS = {
    "blank": ("blank", "they show nothing, remove them"),
    "small": ("too small", "they are far smaller than the others, find larger ones or remove them"),
}


@dataclass(frozen=True)
class Finding:
    """A kind of finding, with what it is about.

    Attributes:
        title: two or three words.
        count: of what was found, with its noun.
        advice: what to do.
        lines: a line for each, the worst first.
        photos: of each line; none where it is not about photos.
    """

    title: str
    count: str
    advice: str
    lines: tuple[str, ...]
    photos: tuple[tuple[Seen, ...], ...] = ()


def findings(found: Diagnosis, root: str) -> list[Finding]:
    """All findings, the most harmful kind first.

    Args:
        found: the diagnosis.
        root: folder that paths are shown from.
    """
    kinds = [_unreadable(found, root), *(_same(found, harm, root) for harm in ("two classes", "train and test"))]
    kinds += [_mislabelled(found, root), *(_poor(found, fault, root) for fault in FAULTS), _same(found, "twice", root)]
    kinds += [_rare(found.rare), _overlaps(found.overlaps)]
    return [kind for kind in kinds if kind.lines]


def growth_lines(growth: Growth) -> list[str]:
    """The curve, what is foreseen, and which class would gain most."""
    curve = ", ".join(f"{point.photos:.0f}: {_percent(point.accuracy)}" for point in growth.curve)
    lines = [f"right by photos a class: {curve}"]
    if growth.doubled is not None:
        last = growth.curve[-1]
        lines.append(f"with twice as many about {_percent(growth.doubled)} (+- {2 * POINTS * last.error:.1f})")
    best = [gain for gain in growth.gains if gain.stands_out][:MOST_NAMED]
    named = ", ".join(f"{gain.name} (+{POINTS * gain.ten_more:.1f} points over all)" for gain in best)
    most, least = (POINTS * gain.ten_more for gain in (growth.gains[0], growth.gains[-1]))
    if best:
        lines.append(f"ten more of {named} would help most")
    elif most - least < ALIKE:
        lines.append(f"no class stands out: ten more of any would bring about {most:+.1f} points over all")
    else:
        lines.append(
            f"no class stands out; first, within chance, are ten more of {growth.gains[0].name} ({most:+.1f} points over all)"
        )
    return lines


def from_root(path: Source | str, root: str) -> str:
    """A path, or what begins with one, as it is seen from a folder; whole, where it lies elsewhere."""
    return str(path).removeprefix(root.rstrip("/") + "/")


def _percent(share: float) -> str:
    return f"{POINTS * share:.1f} %"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _unreadable(found: Diagnosis, root: str) -> Finding:
    lines = tuple(from_root(reason, root) for _, reason in found.unreadable)
    return Finding("unreadable", _counted(len(lines), "photo", "photos"), "save them anew, or remove them", lines)


def _mislabelled(found: Diagnosis, root: str) -> Finding:
    share = f" (estimated: {_percent(found.wrong_share)} of all labels)" if found.wrong_share else ""
    advice = f"look at them, and move those that are wrong{share}"
    lines = tuple(_suspect(each, root) for each in found.mislabelled)
    photos = tuple((each.photo,) for each in found.mislabelled)
    return Finding("mislabelled", _counted(len(lines), "photo", "photos"), advice, lines, photos)


def _suspect(each: Mislabelled, root: str) -> str:
    where = from_root(each.photo.path, root)
    return f"{min(POINTS * each.probability, MOST_SURE):2.0f} %  {where}: {each.photo.label}, or rather {each.likely}?"


def _same(found: Diagnosis, harm: str, root: str) -> Finding:
    title, advice = SAME[harm]
    mine = [each for each in found.twins if each.harm == harm]
    count = _counted(len(mine), "photo", "photos")
    return Finding(title, count, advice, tuple(_twins(each, root) for each in mine), tuple(each.photos for each in mine))


def _twins(each: Twins, root: str) -> str:
    places = [f"{from_root(photo.path, root)}" for photo in each.photos]
    return (" = " if each.exact else " ~ ").join(places) + ("" if each.exact else "  (nearly the same)")


def _poor(found: Diagnosis, fault: str, root: str) -> Finding:
    title, advice = FAULTS[fault]
    mine = [each for each in found.poor if each.fault == fault]
    lines = tuple(_shown(each, root) for each in mine)
    return Finding(title, _counted(len(mine), "photo", "photos"), advice, lines, tuple((each.photo,) for each in mine))


def _shown(each: Poor, root: str) -> str:
    return f"{from_root(each.photo.path, root)}: {each.detail}"


def _rare(rare: tuple[Rare, ...]) -> Finding:
    lines = tuple(f"{each.name}: {each.photos}, usual are {each.usual:g}" for each in rare)
    return Finding("few photos", _counted(len(rare), "class", "classes"), "add photos of these first", lines)


def _overlaps(overlaps: tuple[Overlap, ...]) -> Finding:
    advice = "make them one, or add photos that show the difference"
    lines = tuple(_overlap(each) for each in overlaps)
    return Finding("overlap", _counted(len(lines), "pair of classes", "pairs of classes"), advice, lines)


def _overlap(each: Overlap) -> str:
    a, b = each.names
    return f"{POINTS * each.share:2.0f} %  {a} and {b}: {each.confused} of {each.photos} photos are taken for the other"
