"""`edge-qprompt classify`: labels for photos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_agent import terminal
from edge_qprompt.errors import PackError, PhotoError

if TYPE_CHECKING:
    from edge_qprompt.classify import Answer

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
@click.option("--no-unknown", is_flag=True, help="Give labels alone, also where a photo seems to show none of the classes.")
@click.option(
    "--threshold",
    type=float,
    metavar="FAMILIARITY",
    help="Below it a photo is unknown, in place of the pack's own, which `inspect` shows; `--json` has each photo's. "
    "Without a unit, -1 for a familiar photo, lower for others; the higher, the more photos are unknown.",
)
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
    threshold: float | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Label photos with PACK, and with each further file that ends in .qpk. IMAGES are files, folders or globs.

    A photo that looks like none of the classes is `unknown`, where the pack can tell: it was learned by qgda, and --labels adds
    no names. Its familiarity says how much it looks like the photos that the pack was learned from, whatever their class.

    Several packs are as many tasks, called by their files' names without .qpk. Each photo is encoded once.

    \b
      edge-qprompt classify flowers.qpk new.jpg
      edge-qprompt classify flowers.qpk birds.qpk new.jpg           two tasks, each photo encoded once
      edge-qprompt classify flowers.qpk inbox/ '*.png' --top 1
      edge-qprompt classify flowers.qpk new.jpg --labels +orchid,cactus     classes it never saw
      edge-qprompt classify flowers.qpk new.jpg --threshold -1.5            unknown sooner
    """
    if no_unknown and threshold is not None:
        raise click.UsageError("--no-unknown gives labels alone, which --threshold does not change: leave one of them out")
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
    if threshold is not None:
        tasks.check_threshold(threshold)
    results: list[dict[str, Any]] = []
    skipped: list[tuple[Path, str]] = []
    with terminal.progress() as progress:
        for i, path in enumerate(paths):
            try:
                answers = tasks.look(path, top, threshold)
            except PhotoError as error:
                if strict:
                    raise
                skipped.append((path, str(error)))
            else:
                seen = {name: _facts(answer, not no_unknown) for name, answer in answers.items()}
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


def _facts(answer: Answer, unknown: bool) -> dict[str, Any]:
    """One task's answer as plain data; whether it knows the photo only where that is wanted."""
    labels = [prediction._asdict() for prediction in answer.labels]
    if not unknown:
        return {"labels": labels, "unknown": None, "familiarity": None}
    return {"labels": labels, "unknown": answer.unknown, "familiarity": answer.familiarity}


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
