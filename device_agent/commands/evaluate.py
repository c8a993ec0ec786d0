"""`edge-qprompt evaluate`: how good a pack is, beside the hand-written prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from device_agent import terminal


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
    strict: bool,
    as_json: bool,
) -> None:
    """Accuracy and calibration of PACK on the photos in DATA, beside the hand-written prompt.

    Uses `test/` where DATA has one. The classes are DATA's, not the pack's: a prompt learned on some
    classes can be measured on others.

    \b
      edge-qprompt evaluate flowers.qpk photos/
      edge-qprompt evaluate base.qpk photos/ --classes new      classes it was not learned on
    """
    from edge_qprompt.classify import evaluate
    from edge_qprompt.pack import Pack
    from edge_qprompt.photos import load_dataset

    opened = Pack.open(pack)
    adapter = terminal.adapter_of(pack, opened, adapters)
    model = terminal.open_backbone_for({pack.name: opened}, backbone, precision, providers)
    dataset = load_dataset(data, names).select(classes)
    terminal.warn_notes(dataset.notes)
    with terminal.progress() as progress:
        found = evaluate(model, opened, dataset, adapter=adapter, templates=templates, strict=strict, progress=progress)
    terminal.warn_skipped(found.skipped)
    result: dict[str, Any] = {
        "pack": str(pack),
        "data": str(data),
        "split": found.split,
        "classes": len(found.names),
        "accuracy": found.accuracy,
        "zero_shot_accuracy": found.zero_shot.accuracy,
        "per_class": dict(zip(found.names, found.pack.per_class, strict=True)),
        "ece": found.pack.ece,
        "n": found.pack.n,
        "skipped": len(found.skipped),
        "backbone": model.manifest.name,
        "precision": found.precision,
    }
    terminal.emit(result, as_json, _lines)


def _lines(r: dict[str, Any]) -> list[str]:
    ranked = sorted(((share, name) for name, share in r["per_class"].items() if share is not None))
    worst = ", ".join(f"{name} {terminal.percent(share)}" for share, name in ranked[:3])
    return [
        f"accuracy   {terminal.percent(r['accuracy'])} on {r['n']} photos of {r['classes']} classes ({r['split']})",
        f"zero-shot  {terminal.percent(r['zero_shot_accuracy'])} with the hand-written prompt on the same photos",
        f"ECE        {r['ece']:.3f}   weakest: {worst}",
    ]
