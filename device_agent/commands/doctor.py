"""`edge-qprompt doctor`: what is wrong with photos, and what would help most."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_agent import terminal
from device_agent.advice import findings, growth_lines

if TYPE_CHECKING:
    from edge_qprompt.learn import Diagnosis, Growth, Seen

FIRST = 5  # lines of a kind
SHOTS = 16  # photos of a class that `adapt` learns from, unless somebody says otherwise


@click.command("doctor", short_help="Say what is wrong with photos, and what would help most.")
@click.argument("data", type=click.Path(path_type=Path))
@terminal.backbone_option
@terminal.precision_option
@terminal.providers_option
@terminal.template_option
@terminal.names_option
@click.option(
    "--report", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.html: the photos, curve and classes."
)
@click.option("--all", "everything", is_flag=True, help=f"Name every photo, not only the first {FIRST} of a kind.")
@terminal.json_option
def command(
    data: Path,
    backbone: str,
    precision: str,
    providers: str,
    templates: tuple[str, ...],
    names: Path | None,
    report: Path | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Look through the photos in DATA, before learning from them; nothing is changed.

    Names photos that are likely in the wrong class, there twice, blank, too small or unreadable;
    classes that overlap or have few photos; and measures what more photos would bring.

    \b
      edge-qprompt doctor photos/
      edge-qprompt doctor photos/ --report report/        the same with the pictures
      edge-qprompt doctor photos/ --json > photos.json    every photo, with its SHA-256
    """
    from device_agent.html_page import check_folder
    from edge_qprompt.learn import diagnose
    from edge_qprompt.photos import load_dataset
    from edge_qprompt.prompts import check_template

    if report is not None:
        check_folder(report)
    for template in templates:
        check_template(template)
    model = terminal.open_backbone(backbone, precision, providers)
    dataset = load_dataset(data, names)
    terminal.warn_notes(dataset.notes)
    with terminal.progress() as progress:
        found = diagnose(model, dataset, templates=templates, progress=progress)
    root = str(data if data.is_dir() else data.parent)
    told = {"data": str(data), "backbone": model.manifest.name, "precision": model.precision} | _told(found)
    if report is not None:
        told["report"] = str(_write_page(found, told, report, root))
    terminal.emit(told, as_json, lambda _: _lines(found, told, root, everything))


def _write_page(found: Diagnosis, told: dict[str, Any], folder: Path, root: str) -> Path:
    from device_agent.doctor_page import page
    from edge_qprompt.files import write_whole

    facts = [(name, str(told[name])) for name in ("data", "photos", "backbone", "precision")]
    facts += [("classes", str(len(found.names))), ("right when left out", terminal.percent(found.accuracy))]
    write_whole(folder / "report.html", page(found, facts, root).encode(errors="backslashreplace"))
    return folder / "report.html"


def _told(found: Diagnosis) -> dict[str, Any]:
    """Everything, plain enough for JSON."""
    return {
        "photos": found.photos,
        "class_names": list(found.names),
        "accuracy": found.accuracy,
        "wrong_share": found.wrong_share,
        "unreadable": [{"path": str(path), "reason": reason} for path, reason in found.unreadable],
        "mislabelled": [
            {**_photo(each.photo), "likely": each.likely, "probability": each.probability} for each in found.mislabelled
        ],
        "twins": [{"exact": each.exact, "harm": each.harm, "photos": [*map(_photo, each.photos)]} for each in found.twins],
        "poor": [{**_photo(each.photo), "fault": each.fault, "detail": each.detail} for each in found.poor],
        "overlaps": [
            {"classes": list(each.names), "confused": each.confused, "photos": each.photos, "share": each.share}
            for each in found.overlaps
        ],
        "rare": [{"class": each.name, "photos": each.photos, "usual": each.usual} for each in found.rare],
        "growth": _growth(found.growth) if found.growth else None,
        "unknown": list(found.unknown),
        "seconds": found.seconds,
    }


def _photo(photo: Seen) -> dict[str, str]:
    return {"path": str(photo.path), "class": photo.label, "split": photo.split, "sha256": photo.digest.hex()}


def _growth(growth: Growth) -> dict[str, Any]:
    return {
        "curve": [{"photos": each.photos, "accuracy": each.accuracy, "error": each.error} for each in growth.curve],
        "doubled": growth.doubled,
        "gains": [
            {
                "class": each.name,
                "photos": each.photos,
                "gain": each.gain,
                "error": each.error,
                "ten_more": each.ten_more,
                "stands_out": each.stands_out,
            }
            for each in growth.gains
        ],
    }


def _lines(found: Diagnosis, told: dict[str, Any], root: str, everything: bool) -> list[str]:
    right = f"; of those left out in turn, {terminal.percent(found.accuracy)} are labelled right" if found.accuracy else ""
    lines = [f"{'photos':<18} {found.photos} of {len(found.names)} classes{right}"]
    kinds = findings(found, root)
    for kind in kinds:
        lines.append(f"{kind.title:<18} {kind.count}: {kind.advice}")
        shown = kind.lines if everything else kind.lines[:FIRST]
        lines += [f"    {line}" for line in shown]
        if len(shown) < len(kind.lines):
            lines.append(f"    and {len(kind.lines) - len(shown)} more (--all)")
    if not kinds:
        lines.append("nothing is wrong that could be told")
    if found.growth:
        first, *rest = growth_lines(found.growth)
        lines += [f"{'more photos':<18} {first}", *(f"{'':<18} {line}" for line in rest)]
        if found.growth.curve[-1].photos > SHOTS:
            lines.append(f"{'':<18} adapt learns from {SHOTS} of a class: --shots 1000 takes them all")
    lines += [f"{'not known':<18} {line}" for line in found.unknown]
    if "report" in told:
        lines.append(f"{'report':<18} {told['report']}")
    return lines
