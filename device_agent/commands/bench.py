"""`edge-qprompt bench`: the papers' protocols on one's own photos."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import shlex
import signal
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_agent import terminal
from edge_qprompt.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from edge_qprompt.backbone import Backbone
    from edge_qprompt.bench import Cell, Row

PROTOCOLS = ("base-to-new", "few-shot", "domain", "cross-dataset", "ablation", "epochs")


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int]:  # noqa: ARG001  click's signature
    if value is None:
        return []
    if not re.fullmatch(r"\d+(,\d+)*", value):
        raise click.BadParameter("give numbers with commas between them, e.g. 1,2,3")
    return list(dict.fromkeys(map(int, value.split(","))))


def _shots(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int]:
    numbers = _numbers(ctx, param, value)
    if 0 in numbers:
        raise click.BadParameter("a class needs a photo at least")
    return numbers


@click.command("bench", short_help="Measure methods by the papers' protocols.")
@click.argument("protocol", type=click.Choice(PROTOCOLS))
@click.option(
    "--data",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="A data set with train/ and test/; give it once for each. domain and cross-dataset learn on the first.",
)
@click.option(
    "--methods",
    metavar="NAMES",
    help="With commas between them, also auto, and logistic-regression (in floating point, without a pack); the main ones if not "
    "given. Not for ablation.",
)
@terminal.backbone_option
@click.option("--precision", default="fp32", show_default=True, help=terminal.PRECISION_HELP)
@click.option("--seeds", default="1", show_default=True, callback=_numbers, help="1,2,3 ...: choice of photos, crops, noise.")
@click.option("--epochs", type=click.IntRange(0), help="Passes over the photos, instead of the protocol's.")
@click.option("--shots", callback=_shots, help="Photos a class, e.g. 8 or 1,2,4,8,16, instead of the protocol's.")
@click.option("--batch", type=click.IntRange(1), help="Photos a step; without it, all of them.")
@click.option(
    "--views", type=click.IntRange(1), help="Views of a photo to learn from: the centre, then random crops; 1 if not given."
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes, each with one core.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for lines, table and picture."
)
@terminal.json_option
def command(protocol: str, data: tuple[Path, ...], out: Path, jobs: int, as_json: bool, **options: Any) -> None:
    """Learn and measure each cell of a PROTOCOL, and make a table and a picture.

    \b
      edge-qprompt bench base-to-new --data pets/ --data flowers/ --out results/
      edge-qprompt bench few-shot --data pets/ --methods coop,qcoop,qres --seeds 1,2,3 --jobs 4 --out results/
      edge-qprompt bench base-to-new --data pets/ --shots 1,2,4,8,16 --methods qgda,logistic-regression --out results/
      edge-qprompt bench domain --data photo/ --data sketch/ --out results/      learned on the first
      edge-qprompt bench ablation --data pets/ --out results/

    Finished cells are kept in OUT/PROTOCOL.jsonl and not run again, so after Ctrl-C the same command goes on. The table is
    OUT/PROTOCOL.md and .csv, the picture OUT/PROTOCOL.png; accuracy over seconds from photos to pack is PROTOCOL-seconds.png,
    and over several numbers of photos PROTOCOL-photos.png.
    """
    for module in ("torch", "matplotlib", "sklearn"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, "bench")
    from edge_qprompt.bench import Lines, report
    from edge_qprompt.files import write_whole

    cells = _cells(protocol, data, options)
    out.mkdir(parents=True, exist_ok=True)
    kept = Lines(out / f"{protocol}.jsonl")
    missing = [cell for cell in cells if cell not in kept]
    click.echo(f"{len(cells) - len(missing)} of {len(cells)} cells are finished", err=True)
    with terminal.progress() as progress:
        run = _run if jobs == 1 else partial(_run_apart, jobs=jobs)
        run(missing, keep=kept.add, tell=lambda done, note: progress("cells", done, len(missing), note))
    rows = kept.of(cells)
    if unread := sum(row.get("skipped", 0) for row in rows):
        terminal.warn(f"photos that could not be read were left out, {unread} in all cells together: `skipped` in {kept.path}")
    found = report.lines(protocol, rows)
    table = [*report.markdown(found), *report.notes(protocol, rows)]
    place = out / protocol
    words = " ".join(map(shlex.quote, ["edge-qprompt", *sys.argv[1:]]))
    write_whole(place.with_suffix(".md"), "\n".join([f"`{words}`", "", *table, ""]).encode(errors="backslashreplace"))
    write_whole(place.with_suffix(".csv"), report.as_csv(found).encode(errors="backslashreplace"))
    pictures = _pictures(protocol, rows, place)
    answer = {"rows": rows, "table": f"{place}.md", "picture": str(pictures[0]), "pictures": [str(each) for each in pictures]}
    terminal.emit(answer, as_json, lambda _: table)


def _pictures(protocol: str, rows: list[Row], place: Path) -> list[Path]:
    """Those that the rows allow, the main one first."""
    from edge_qprompt.bench import pictures, shots_of

    main, seconds, photos = (place.with_name(f"{place.name}{end}.png") for end in ("", "-seconds", "-photos"))
    pictures.plot(protocol, rows, main)
    made = [main]
    if protocol != "epochs":
        pictures.over_seconds(protocol, rows, seconds)
        made.append(seconds)
    if protocol not in ("epochs", "few-shot") and len(set(map(shots_of, rows))) > 1:  # few-shot's main one has them
        pictures.over_photos(protocol, rows, photos)
        made.append(photos)
    return made


def _cells(protocol: str, data: tuple[Path, ...], options: dict[str, Any]) -> list[Cell]:
    from dataclasses import replace

    from edge_qprompt.bench import SNAPSHOT_EPOCHS, cells_of, content_of

    names = [folder.absolute().name for folder in data]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"two data sets are called {twice[0]}: rename a folder, since results are told apart by its name")
    backbone = terminal.open_backbone(options["backbone"], options["precision"], "cpu")
    methods = _methods(protocol, options["methods"], backbone)
    if protocol in ("ablation", "epochs") and options["methods"]:
        raise click.UsageError(f"{protocol} has variations of QCoOp instead of methods: leave --methods out")
    if protocol == "epochs" and (options["epochs"] or SNAPSHOT_EPOCHS) < SNAPSHOT_EPOCHS:
        raise click.UsageError(f"the curves have a point every {SNAPSHOT_EPOCHS} epochs: give --epochs {SNAPSHOT_EPOCHS} or more")
    if protocol == "epochs" and len(options["shots"]) > 1:
        raise click.UsageError("the curves are of one number of photos: give one to --shots")
    settings = {name: options[name] for name in ("epochs", "batch", "views") if options[name] is not None}
    folders = [str(folder.absolute()) for folder in data]
    cells = cells_of(protocol, folders, methods, options["seeds"], settings, options["shots"])
    content: dict[Any, str] = {}
    for cell in cells:
        if (where := (cell.data, cell.targets)) not in content:
            content[where] = content_of(backbone, dict.fromkeys((cell.data, *cell.targets)), cell.part)
    place, precision = str(backbone.folder), backbone.precision
    return [replace(c, backbone=place, precision=precision, content=content[c.data, c.targets]) for c in cells]


def _methods(protocol: str, said: str | None, backbone: Backbone) -> list[str]:
    """What was named, or the main ones that can be run."""
    from edge_qprompt.bench import MAIN, REGRESSION
    from edge_qprompt.learn import AUTO, METHODS, Takes

    inside = {name for name in METHODS if METHODS[name].takes is Takes.PIXELS}  # the image tower, which not every backbone allows
    cannot = (set() if backbone.manifest.vision else inside) | ({REGRESSION} if protocol == "cross-dataset" else set())
    methods = list(dict.fromkeys(said.split(","))) if said else [name for name in MAIN if name not in cannot]
    known = (*METHODS, AUTO, REGRESSION)
    if unknown := [name for name in methods if name not in known]:
        raise click.BadParameter(f"there is no method {unknown[0]!r}, there are {', '.join(known)}", param_hint="--methods")
    if inside & set(methods):
        _ = backbone.vision  # fails before anything is learned
    return methods


def _run(cells: list[Cell], keep: Any, tell: Any) -> None:
    """Run cells one after the other; each is kept as soon as it is finished."""
    for done, cell in enumerate(cells, 1):
        keep(cell.run())
        tell(done, f"{Path(cell.data).name} {cell.variant}")


def _run_apart(cells: list[Cell], jobs: int, keep: Any, tell: Any) -> None:
    """The same in several processes; where one cell fails, those that have begun are still kept."""
    context = multiprocessing.get_context("spawn")  # nothing of this process's threads
    cores: Any = context.Queue()
    for core in islice(cycle(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]), jobs):
        cores.put(core)
    pool = ProcessPoolExecutor(jobs, context, _one_core, (cores,))
    waiting, done = iter(cells), 0
    running: dict[Future[Row], Cell] = {}
    failed: BaseException | None = None
    try:
        while True:
            for cell in islice(waiting, 0 if failed else jobs - len(running)):  # no more than run: what began is kept
                running[pool.submit(cell.run)] = cell
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                if isinstance(error := future.exception(), BrokenProcessPool):
                    raise error
                if error:
                    failed = error
                    continue
                keep(future.result())
                done += 1
                tell(done, f"{Path(cell.data).name} {cell.variant}")
    except BrokenProcessPool as error:
        raise DataError(
            "a process was ended from outside, perhaps for want of memory: the same command with fewer --jobs goes on"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if failed:
        raise failed


def _one_core(cores: Any) -> None:
    """A core for this process alone: processes whose threads spin against each other are slow (docs/adr/0005-threads.md)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once; what it does is run again
    if (core := cores.get()) is not None:
        os.sched_setaffinity(0, {core})
    from edge_qprompt.learn import one_core

    one_core()
