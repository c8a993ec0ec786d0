"""`edge-qprompt classify`: labels for photos."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import click

from device_agent import terminal
from edge_qprompt.errors import DataError, PhotoError


@click.command("classify", short_help="Label photos with a pack.")
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@terminal.backbone_option
@terminal.precision_option
@click.option("--labels", help="a,b,c instead of the pack's class names; +a,b,c in addition to them.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Labels a photo.")
@terminal.strict_option
@terminal.json_option
def command(
    pack: Path, images: tuple[str, ...], backbone: str, precision: str, labels: str | None, top: int, strict: bool, as_json: bool
) -> None:
    """Label photos with PACK. IMAGES are files, folders or globs.

    \b
      edge-qprompt classify flowers.qpk new.jpg
      edge-qprompt classify flowers.qpk inbox/ '*.png' --top 1
      edge-qprompt classify flowers.qpk new.jpg --labels +orchid,cactus     classes it never saw
    """
    from edge_qprompt.backbone import Backbone
    from edge_qprompt.classifier import Classifier
    from edge_qprompt.pack import Pack

    opened = Pack.open(pack)
    model = Backbone.open(backbone, precision)
    model.check(opened)
    paths = [path for image in images for path in _expand(image)]
    classifier = Classifier(model, opened, wanted_labels(labels, opened.class_names))
    results: list[dict[str, Any]] = []
    skipped: list[tuple[Path, str]] = []
    with terminal.Progress() as progress:
        for i, path in enumerate(paths):
            try:
                predictions = classifier.classify(path, top)
            except PhotoError as error:
                if strict:
                    raise
                skipped.append((path, str(error)))
            else:
                results.append({"image": str(path), "labels": [vars(p) for p in predictions]})
            progress("classify", i + 1, len(paths))
    terminal.warn_skipped(skipped)
    if not results:
        raise PhotoError(f"none of the {len(paths)} photos can be read")
    facts = {"pack": str(pack), "backbone": model.manifest.name, "precision": precision, "skipped": len(skipped)}
    terminal.emit(facts | {"images": results}, as_json, _lines)


def wanted_labels(labels: str | None, own: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The class names that --labels asks for; None for the pack's own."""
    if labels is None:
        return None
    given = [name.strip() for name in labels.removeprefix("+").split(",")]
    if not all(given):
        raise click.BadParameter("give names with commas between them, e.g. --labels cat,dog", param_hint="--labels")
    names = (*(own or ()), *given) if labels.startswith("+") else tuple(given)
    return tuple(dict.fromkeys(names))


def _expand(image: str) -> list[Path]:
    from edge_qprompt.dataset import list_photos

    path = Path(image)
    if path.is_dir():
        found = list_photos(path)
        if not found:
            raise DataError(f"no photos in the folder {path}")
        return found
    if path.exists():
        return [path]
    matches = sorted(glob.glob(image, recursive=True))  # noqa: PTH207  a pattern may be absolute
    if not matches:
        raise DataError(f"no such photo: {image}")
    return [found for match in matches for found in ([Path(match)] if Path(match).is_file() else list_photos(Path(match)))]


def _lines(r: dict[str, Any]) -> list[str]:
    width = max(len(row["image"]) for row in r["images"])
    return [
        f"{row['image']:<{width}}  " + "  ".join(f"{p['label']} {terminal.percent(p['probability'])}" for p in row["labels"])
        for row in r["images"]
    ]
