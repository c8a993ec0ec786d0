"""`edge-qprompt classify`: labels for photos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_agent import terminal
from edge_qprompt.errors import PackError, PhotoError

if TYPE_CHECKING:
    from edge_qprompt.classify import Prediction

PACK_SUFFIX = ".qpk"


@click.command("classify", short_help="Label photos with a pack, or with several.")
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("images", metavar="[PACKS]... IMAGES...", nargs=-1, required=True)
@terminal.backbone_option
@terminal.packs_precision_option
@terminal.providers_option
@terminal.adapter_option
@click.option("--labels", help="a,b,c instead of the pack's class names; +a,b,c in addition to them.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Labels a photo.")
@click.option("--no-unknown", is_flag=True, help="Label photos that seem to show none of the classes as well.")
@terminal.strict_option
@terminal.json_option
def command(
    pack: Path,
    images: tuple[str, ...],
    backbone: str,
    precision: str | None,
    providers: str,
    adapters: tuple[Path, ...],
    labels: str | None,
    top: int,
    no_unknown: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Label photos with PACK, and with each further file that ends in .qpk. IMAGES are files, folders or globs.

    Several packs are as many tasks, called by their files' names without .qpk. Each photo is encoded once.

    \b
      edge-qprompt classify flowers.qpk new.jpg
      edge-qprompt classify flowers.qpk birds.qpk new.jpg           two tasks, each photo encoded once
      edge-qprompt classify flowers.qpk inbox/ '*.png' --top 1
      edge-qprompt classify flowers.qpk new.jpg --labels +orchid,cactus     classes it never saw
    """
    from edge_qprompt.classify import Classifier, Tasks
    from edge_qprompt.pack import Pack

    packs, images = _split(pack, images)
    opened = {name: Pack.open(path) for name, path in packs.items()}
    shared = {name: terminal.adapter_of(path, opened[name], adapters) for name, path in packs.items()}
    by_file = {path.name: opened[name] for name, path in packs.items()}
    model = terminal.open_backbone_for(by_file, backbone, precision, providers)
    paths = [path for image in images for path in terminal.expand(image)]
    tasks = Tasks(model)
    for name, each in opened.items():
        tasks.add(name, Classifier(model, each, wanted_labels(labels, each.class_names), shared[name]))
    results: list[dict[str, Any]] = []
    skipped: list[tuple[Path, str]] = []
    with terminal.progress() as progress:
        for i, path in enumerate(paths):
            try:
                predictions, unknown = tasks.look(path, top)
            except PhotoError as error:
                if strict:
                    raise
                skipped.append((path, str(error)))
            else:
                seen = {
                    name: {"labels": _facts(found), "unknown": name in unknown and not no_unknown}
                    for name, found in predictions.items()
                }
                results.append({"image": str(path), "tasks": seen})
            progress("classify", i + 1, len(paths))
    terminal.warn_skipped(skipped)
    if not results:
        raise PhotoError(f"none of the {len(paths)} photos can be read")
    facts = {"backbone": model.manifest.name, "precision": model.precision, "skipped": len(skipped)}
    if len(packs) == 1:
        results = [{"image": row["image"], **row["tasks"][name]} for row in results for name in packs]
        terminal.emit({"pack": str(pack)} | facts | {"images": results}, as_json, _lines)
    else:
        by_task = {"packs": {name: str(path) for name, path in packs.items()}}
        terminal.emit(by_task | facts | {"images": results}, as_json, _task_lines)


def _split(pack: Path, rest: Iterable[str]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Packs by task, and what is left: the photos.

    Raises:
        PackError: two packs would be the same task.
    """
    packs, images = {pack.stem: pack}, []
    for argument in rest:
        path = Path(argument)
        if path.suffix != PACK_SUFFIX or path.is_dir():
            images.append(argument)
        elif path.stem in packs:
            raise PackError(f"{packs[path.stem]} and {path} would both be task {path.stem!r}: rename one, or leave it out")
        else:
            packs[path.stem] = path
    if not images:
        raise click.UsageError("there are only packs: give photos behind them")
    return packs, tuple(images)


def _facts(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    return [prediction._asdict() for prediction in predictions]


def wanted_labels(labels: str | None, own: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The class names that --labels asks for; None for the pack's own."""
    if labels is None:
        return None
    given = [name.strip() for name in labels.removeprefix("+").split(",")]
    if not all(given):
        raise click.BadParameter("give names with commas between them, e.g. --labels cat,dog", param_hint="--labels")
    names = (*(own or ()), *given) if labels.startswith("+") else tuple(given)
    return tuple(dict.fromkeys(names))


def _lines(r: dict[str, Any]) -> list[str]:
    width = max(len(row["image"]) for row in r["images"])
    return [f"{row['image']:<{width}}  {_shares(row)}" for row in r["images"]]


def _task_lines(r: dict[str, Any]) -> list[str]:
    """A line for each photo and task."""
    width, task_width = max(len(row["image"]) for row in r["images"]), max(map(len, r["packs"]))
    return [
        f"{row['image']:<{width}}  {name:<{task_width}}  {_shares(seen)}"
        for row in r["images"]
        for name, seen in row["tasks"].items()
    ]


def _shares(seen: dict[str, Any]) -> str:
    shares = "  ".join(f"{p['label']} {terminal.percent(p['probability'])}" for p in seen["labels"])
    return f"unknown (nearest: {shares})" if seen["unknown"] else shares
