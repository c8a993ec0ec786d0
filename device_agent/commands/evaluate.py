"""`edge-qprompt evaluate`: how good a pack is, beside the hand-written prompt."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_agent import terminal
from edge_qprompt.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from edge_qprompt.classify import Unknown

PICTURES = (".svg", ".png", ".pdf")
FAMILIARITY = "familiarity"
BAR, EVERY = 40, 2  # characters of the longest bar, and which coverages have one


@click.command("evaluate", short_help="Measure a pack on photos with known labels.")
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@terminal.backbone_option
@terminal.packs_precision_option
@terminal.providers_option
@terminal.adapter_option
@terminal.classes_option
@terminal.template_option
@terminal.names_option
@terminal.others_option
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --others: a picture of accuracy over coverage, e.g. curve.svg.",
)
@terminal.strict_option
@terminal.json_option
def command(
    pack: Path,
    data: Path,
    backbone: str,
    precision: str | None,
    providers: str,
    adapters: tuple[Path, ...],
    classes: str,
    templates: tuple[str, ...],
    names: Path | None,
    others: str | None,
    plot: Path | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Accuracy and calibration of PACK on the photos in DATA, beside the hand-written prompt.

    Uses `test/` where DATA has one. Photos that the pack was learned from, which its state beside it knows, are left out; where
    there are no others, what is measured says so. The classes are DATA's, not the pack's: a prompt learned on some
    classes can be measured on others.

    \b
      edge-qprompt evaluate flowers.qpk photos/
      edge-qprompt evaluate base.qpk photos/ --classes new      classes it was not learned on
      edge-qprompt evaluate flowers.qpk photos/ --others street/ --plot curve.svg    does it know when it does not know?
    """
    from device_agent.learned import known_to
    from edge_qprompt.classify import COVERAGES, LEARNED_FROM, evaluate
    from edge_qprompt.pack import Pack
    from edge_qprompt.photos import load_dataset

    if plot is not None:
        _check_plot(plot, others)
    opened = Pack.open(pack)
    adapter = terminal.adapter_of(pack, opened, adapters)
    model = terminal.open_backbone_for({pack.name: opened}, backbone, precision, providers)
    dataset = load_dataset(data, names).select(classes)
    terminal.warn_notes(dataset.notes)
    with terminal.progress() as progress:
        found = evaluate(
            model,
            opened,
            dataset,
            adapter=adapter,
            learned_from=known_to(pack, opened),
            others=terminal.expand(others) if others else (),
            templates=templates,
            strict=strict,
            progress=progress,
        )
    terminal.warn_skipped(found.skipped)
    new = found.split != LEARNED_FROM
    result: dict[str, Any] = {
        "pack": str(pack),
        "data": str(data),
        "split": found.split,
        "classes": len(found.names),
        "accuracy": found.accuracy if new else None,
        "accuracy_on_photos_learned_from": None if new else found.accuracy,
        "learned_from": found.learned_from,
        "zero_shot_accuracy": found.zero_shot.accuracy,
        "per_class": dict(zip(found.names, found.pack.per_class, strict=True)),
        "ece": found.pack.ece,
        "n": found.pack.n,
        "skipped": len(found.skipped),
        "backbone": model.manifest.name,
        "precision": found.precision,
    }
    if found.unknown is not None:
        result["others"] = asdict(found.unknown) | {"coverage": COVERAGES}
        if plot is not None:
            _draw(found.unknown, plot)
            result["plot"] = str(plot)
    terminal.emit(result, as_json, _lines)


def _check_plot(plot: Path, others: str | None) -> None:
    """Fail before the photos are encoded."""
    if others is None:
        raise click.UsageError("--plot draws how photos of --others are told apart: give these as well")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib")
    if plot.suffix not in PICTURES:
        raise click.BadParameter(f"{plot} ends in none of {', '.join(PICTURES)}", param_hint="--plot")
    if not plot.parent.is_dir():
        raise DataError(f"the folder {plot.parent} of --plot does not exist: create it first")


def _draw(unknown: Unknown, plot: Path) -> None:
    """Accuracy over coverage."""
    from matplotlib.figure import Figure

    from edge_qprompt.classify import COVERAGES

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    percents = [100 * share for share in COVERAGES]
    axes.plot(percents, [100 * share for share in unknown.accuracy], ".-", color="#0b6b58")
    axes.set(xlabel="% of all photos that are answered", ylabel="% of these that are right", xlim=(0, 100), ylim=(0, 101))
    axes.grid(alpha=0.3)
    axes.set_title(f"the most sure first, by {unknown.by}; {unknown.n} photos of none of the classes", fontsize="medium")
    figure.savefig(plot)


def _lines(r: dict[str, Any]) -> list[str]:
    ranked = sorted(((share, name) for name, share in r["per_class"].items() if share is not None))
    worst = ", ".join(f"{name} {terminal.percent(share)}" for share, name in ranked[:3])
    measured = f"accuracy   {terminal.percent(r['accuracy'])} on {r['n']} photos of {r['classes']} classes ({r['split']})"
    if r["accuracy"] is None:
        share = terminal.percent(r["accuracy_on_photos_learned_from"])
        measured = f"accuracy on photos learned from   {share} on {r['n']} of {r['classes']} classes: new photos have less"
    elif r["learned_from"] is None and r["split"] != "test":
        measured += "; whether it was learned from them is not known"
    elif r["learned_from"]:
        measured += f"; {r['learned_from']} that it was learned from are left out"
    others = _other_lines(r["others"]) if "others" in r else []
    return [
        measured,
        f"zero-shot  {terminal.percent(r['zero_shot_accuracy'])} with the hand-written prompt on the same photos",
        f"ECE        {r['ece']:.3f}   weakest: {worst}",
        *others,
    ]


def _other_lines(unknown: dict[str, Any]) -> list[str]:
    """What is said of the others, and accuracy over coverage in a line each."""
    percent = terminal.percent
    called = f"{percent(unknown['found'])} of them are called unknown, and {percent(unknown['lost'])} of right answers"
    if unknown["by"] != FAMILIARITY:
        called = "the pack cannot call a photo unknown: one of the method qgda can"
    told = f"{percent(unknown['fpr95'])} pass where 95 % of the classes' photos do"
    rows = [
        f"  {percent(share):>7} answered  {percent(right):>7} right  {'#' * round(BAR * right)}"
        for share, right in list(zip(unknown["coverage"], unknown["accuracy"], strict=True))[::EVERY]
    ]
    return [
        f"others     {unknown['n']} photos of none of the classes: AUROC {100 * unknown['auroc']:.1f} by {unknown['by']}, {told}",
        f"unknown    {called}",
        "coverage   the most sure first, of all photos",
        *rows,
    ]
