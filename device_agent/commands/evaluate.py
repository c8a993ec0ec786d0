"""`edge-qprompt evaluate`: how good a pack is, beside the hand-written prompt."""

from __future__ import annotations

from functools import partial
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
    import numpy as np

    from edge_qprompt.classify import Classifier, Scores, zero_shot
    from edge_qprompt.errors import DataError
    from edge_qprompt.pack import Pack
    from edge_qprompt.photos import extract, load_dataset

    opened = Pack.open(pack)
    adapter = terminal.adapter_of(pack, opened, adapters)
    model = terminal.open_backbone_for({pack.name: opened}, backbone, precision, providers)
    dataset = load_dataset(data, names).select(classes)
    terminal.warn_notes(dataset.notes)
    photos, split = (dataset.test, "test") if dataset.test else (dataset.train, "all photos")
    learned = Classifier(model, opened, dataset.names, adapter)
    by_hand = zero_shot(model, dataset.names, *templates)
    encoders = {learned.backbone: "encode photos"}
    encoders.setdefault(model, "encode photos for the hand-written prompt")  # another one if the pack changes the encoder
    with terminal.Progress() as progress:
        found = [
            extract(encoder, photos.paths, strict=strict, progress=partial(progress, stage))
            for encoder, stage in encoders.items()
        ]
    features = found[0]
    terminal.warn_skipped(features.skipped)
    if not len(features.kept):
        raise DataError(f"none of the {len(photos)} photos in {data} can be read")
    labels = np.array(photos.labels)[features.kept]
    scores = Scores.of(learned.probabilities(features.values[:, 0]), labels)
    plain = Scores.of(by_hand.probabilities(found[-1].values[:, 0]), labels)
    result: dict[str, Any] = {
        "pack": str(pack),
        "data": str(data),
        "split": split,
        "classes": len(dataset.names),
        "accuracy": scores.accuracy,
        "zero_shot_accuracy": plain.accuracy,
        "per_class": dict(zip(dataset.names, scores.per_class, strict=True)),
        "ece": scores.ece,
        "n": scores.n,
        "skipped": len(features.skipped),
        "backbone": model.manifest.name,
        "precision": learned.backbone.precision,
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
