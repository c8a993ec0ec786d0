"""`edge-qprompt adapt`: photos in, a pack out."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_agent import terminal
from edge_qprompt.errors import DataError, MissingExtraError
from edge_qprompt.learn import (
    ALL,
    AUTO,
    CLASS_BUDGET,
    COOP_LR,
    ENGINES,
    FULL_BATCH_LR,
    LEAST_BUDGET,
    LEAST_CTX,
    MEMORY,
    METHODS,
    MOST_CTX,
    PROMPT,
    ClosedForm,
    Schedule,
)

if TYPE_CHECKING:
    from edge_qprompt.learn import Adaptation, AdaptSettings, Candidate, Option
    from edge_qprompt.photos import Dataset

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, kilobytes elsewhere
STATUS = Path("/proc/self/status")
FAST = "qres"
OF_PROMPTS = ("bits", "ctx", "epochs", "batch", "lr")  # options that mean nothing to "auto"
CURVE_POINTS = 200  # more than a plot can show, and a report stays small


def peak_memory_mb() -> float:
    """Largest resident size of this process; Linux's getrusage also remembers that of its parent."""
    if STATUS.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())):
        return int(found[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT / 1e6


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:  # noqa: ARG001  click's signature
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("it must be a finite number")
    return value


class _Batch(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """A number of photos, or "all"."""

    name = "integer or all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "all":
            return ALL
        return click.IntRange(1).convert(value, param, ctx)


def _named(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> dict[str, Option]:  # noqa: ARG001  click's signature
    """NAME=VALUE, by name."""
    pairs = [each.partition("=") for each in value]
    for name, equals, _ in pairs:
        if not (name.strip() and equals):
            raise click.BadParameter(f"{name + equals!r} is not of the form NAME=VALUE, like lora_rank=4")
    return {name.strip(): text.strip() for name, _, text in pairs}


def _own_options() -> str:
    """Names of all methods' options, for the help."""
    names = (each.name for method in METHODS.ours.values() for each in fields(method.Options))
    return ", ".join(dict.fromkeys(names))


@click.command("adapt", short_help="Learn a pack from a folder of photos.")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The pack to write, e.g. flowers.qpk."
)
@terminal.backbone_option
@terminal.precision_option
@terminal.providers_option
@click.option(
    "--method",
    type=click.Choice([AUTO, *METHODS]),
    default=AUTO,
    show_default=True,
    help="auto: the best for these photos within --budget, measured on photos left out in turn; qgda: a discriminant of the "
    "photos, quantized, at once; qcoop: a quantized prompt; qres: what the photos add to each class name, quantized, at once; "
    "qcoop+qres: both; qkgcoop and qkgcoop+qres: the same, better for classes that are named later; zero-shot: the hand-written "
    "prompt, nothing learned; the others are baselines.",
)
@click.option(
    "--budget",
    type=click.IntRange(1),
    show_default=f"{CLASS_BUDGET} a class, {LEAST_BUDGET} at least",
    help="Bytes that auto may spend on the pack, with everything in it.",
)
@click.option("--fast", is_flag=True, help="The same as --method qres: milliseconds after the photos are encoded.")
@click.option("--bits", type=click.IntRange(1, 8), show_default="1, for qmaple 4", help="Bits a prompt weight.")
@click.option(
    "--residual-bits", type=click.IntRange(1, 8), show_default="2", help="Bits a class residual (qres, learned-qres, with +qres)."
)
@click.option(
    "--set",
    "own",
    multiple=True,
    callback=_named,
    metavar="NAME=VALUE",
    help=f"An option of the method alone, again for several: {_own_options()}.",
)
@click.option(
    "--ctx",
    type=click.IntRange(1, 64),
    show_default=f"{LEAST_CTX} to {MOST_CTX} by the text tower's width, or its paper's",
    help="Learned tokens.",
)
@click.option("--shots", type=click.IntRange(1), default=16, show_default=True, help="Training photos a class, at most.")
@terminal.classes_option
@click.option(
    "--epochs", type=click.IntRange(0), show_default=f"{Schedule.epochs}, or its paper's", help="Passes over the photos."
)
@click.option("--batch", type=_Batch(), show_default="all, or its paper's", help="Photos a step: a number, or all of them.")
@click.option(
    "--views", type=click.IntRange(1, 64), default=1, show_default=True, help="Views a photo: the centre, then random crops."
)
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    default=None,
    show_default=f"{COOP_LR}, with --batch all {FULL_BATCH_LR}, or its paper's",
    help="Learning rate; of SGD for 32 photos a step.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Choice of photos, crops and their order.")
@terminal.template_option
@terminal.names_option
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="Precision of a step; auto tries bfloat16 where the processor has it and the step is large.",
)
@click.option(
    "--memory",
    type=click.IntRange(1),
    default=MEMORY >> 20,
    show_default=True,
    help="Megabytes that a step may keep; less is slower.",
)
@click.option(
    "--report", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.html: curves, confusions, wrong photos."
)
@click.option("--resume", is_flag=True, help="Go on where an interrupted run with the same settings stopped.")
@click.option("--provenance", is_flag=True, help="Note in the pack how it was learned (about 70 bytes).")
@terminal.strict_option
@terminal.json_option
def command(data: Path, out: Path, as_json: bool, names: Path | None, resume: bool, report: Path | None, **options: Any) -> None:
    """Learn a pack of a few hundred bytes from a folder of photos, on this machine.

    DATA has one folder per class; `train/` and `test/` inside are honoured, and so is a
    `classes.txt` (label, folder, name, tab-separated). Or it is a CSV with lines `path,label`.

    \b
      edge-qprompt adapt photos/ --out flowers.qpk
      edge-qprompt adapt photos/ --out flowers.qpk --budget 400       the best of fewer bytes
      edge-qprompt adapt photos/ --out flowers.qpk --method qcoop     a prompt of the paper's, for any names
      edge-qprompt adapt photos/ --out flowers.qpk --shots 4 --bits 2 --views 4
      edge-qprompt adapt photos/ --out base.qpk --classes base      first half of the classes
      edge-qprompt adapt photos/ --out flowers.qpk --resume         after Ctrl-C or a power cut

    The same command gives the same bytes. Image features are cached, so a second run is quicker.
    """
    from edge_qprompt.pack import names_section
    from edge_qprompt.photos import load_dataset
    from edge_qprompt.prompts import check_template

    options["method"] = _method(options)
    step_by_step = options["method"] != AUTO and not issubclass(METHODS[options["method"]], ClosedForm)
    if step_by_step and importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch")
    _check_target(out)
    if report is not None:
        _check_report(report)
    for template in options["templates"]:
        check_template(template)
    backbone = terminal.open_backbone(options["backbone"], _precision(options), options["providers"])
    dataset = load_dataset(data, names).select(options["classes"])
    names_section(dataset.names)  # a name that no pack can hold is better known now than after learning
    from edge_qprompt.learn import adapt

    terminal.warn_notes(dataset.notes)
    _warn_few(dataset, options["shots"])
    checkpoint = out.with_name(out.name + ".checkpoint")
    if resume and not checkpoint.exists():
        terminal.warn(f"there is no {checkpoint.name} to resume from, starting at the beginning")
    settings = _settings(options)
    try:
        with terminal.progress() as progress:
            result = adapt(backbone, dataset, settings, checkpoint, resume=resume, progress=progress)
    except KeyboardInterrupt:
        if checkpoint.exists():
            terminal.warn("stopped; the same command with --resume goes on from the last checkpoint")
        raise
    result.pack.save(out)
    checkpoint.unlink(missing_ok=True)
    terminal.warn_skipped(result.skipped)
    facts = {"backbone": backbone.manifest.name, "precision": backbone.precision, "method": result.method}
    told = _report(result, out) | facts | {"seed": options["seed"]}
    if report is not None:
        told["report"] = str(_write_page(result, told, report))
    terminal.emit(told, as_json, _lines)


def _method(options: dict[str, Any]) -> str:
    """What to learn with. What is said about a prompt, or about one method alone, needs that method."""
    named = click.get_current_context().get_parameter_source("method") is not click.core.ParameterSource.DEFAULT
    if options["fast"]:
        if named:
            raise click.UsageError("--fast is a method of its own: leave --method out")
        return FAST
    method = str(options["method"])
    if method != AUTO:
        return method
    if options["residual_bits"] or options["own"]:
        raise click.UsageError("--residual-bits and --set are options of some methods: name one with --method")
    prompt = [f"--{name}" for name in OF_PROMPTS if options[name] is not None]
    if prompt and named:
        raise click.UsageError(f"{prompt[0]} says how a prompt is learned: leave it out, or name a method of a prompt")
    return PROMPT if prompt else AUTO


def _precision(options: dict[str, Any]) -> str:
    """What to open the backbone with: methods inside the image tower learn, and run, in fp32."""
    from edge_qprompt.backbone import AUTO as FASTEST
    from edge_qprompt.backbone import FP32
    from edge_qprompt.learn import Takes

    inside = options["method"] != AUTO and METHODS[options["method"]].takes is Takes.PIXELS
    return FP32 if inside and options["precision"] == FASTEST else str(options["precision"])


def _write_page(result: Adaptation, told: dict[str, Any], folder: Path) -> Path:
    from device_agent.report import page
    from edge_qprompt.files import write_whole

    folder.mkdir(parents=True, exist_ok=True)
    names = ("pack", "method", "backbone", "precision", "images_used", "steps", "engine_note", "seed")
    facts = [(name.replace("_", " "), str(told[name])) for name in names if told[name] != ""]
    for name in ("train", "held_out"):
        if told[f"{name}_accuracy"] is not None:
            facts.append((f"accuracy, {name.replace('_', ' ')}", terminal.percent(told[f"{name}_accuracy"])))
    facts.append(("hand-written prompt", terminal.percent(told["zero_shot_accuracy"])))
    write_whole(folder / "report.html", page(result, facts).encode(errors="backslashreplace"))
    return folder / "report.html"


def _settings(options: dict[str, Any]) -> AdaptSettings:
    from edge_qprompt.codebook import ClusterSettings
    from edge_qprompt.learn import AdaptSettings, EngineSettings, LoopSettings, MethodSettings

    return AdaptSettings(
        method=options["method"],
        budget=options["budget"],
        n_ctx=options["ctx"],
        shots=options["shots"],
        views=options["views"],
        strict=options["strict"],
        provenance=options["provenance"],
        loop=LoopSettings(epochs=options["epochs"], batch=options["batch"], lr=options["lr"], seed=options["seed"]),
        method_settings=MethodSettings(
            ClusterSettings(bits=options["bits"] or ClusterSettings.bits),
            options["templates"],
            options["seed"],
            _method_options(options),
        ),
        engine=EngineSettings(options["engine"], options["memory"] << 20),
    )


def _method_options(options: dict[str, Any]) -> dict[str, Option]:
    """What is given for the method alone, by --set and by options that have a name of their own."""
    if options["method"] == AUTO:
        return {}
    method = METHODS[options["method"]]
    named: dict[str, Option] = {} if options["residual_bits"] is None else {"residual_bits": options["residual_bits"]}
    if options["bits"] and any(each.name == "prompt_bits" for each in fields(method.Options)):
        named["prompt_bits"] = options["bits"]
    return {**named, **options["own"]}


def _check_target(out: Path) -> None:
    """Fail before the work, not after it."""
    if out.exists() and not out.is_file():
        raise DataError(f"--out {out} is not a regular file: choose another")
    if not out.parent.is_dir():
        raise DataError(f"the folder {out.parent} of --out does not exist: create it first")
    if not os.access(out.parent, os.W_OK):
        raise DataError(f"the folder {out.parent} of --out cannot be written to: choose another")


def _check_report(folder: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder} of --report ({error.strerror}): choose another") from error
    if not os.access(folder, os.W_OK):
        raise DataError(f"the folder {folder} of --report cannot be written to: choose another")


def _warn_few(dataset: Dataset, shots: int) -> None:
    counts = {name: dataset.train.labels.count(label) for label, name in enumerate(dataset.names)}
    few = [f"{name} ({count})" for name, count in counts.items() if 0 < count < shots]
    if few:
        listed = ", ".join(few[:5]) + (" ..." if len(few) > 5 else "")
        terminal.warn(f"{len(few)} of {len(counts)} classes have fewer than {shots} photos and use what they have: {listed}")


def _report(result: Adaptation, out: Path) -> dict[str, Any]:
    held = result.held_out
    return {
        "pack": str(out),
        "pack_id": result.pack.pack_id,
        "bytes": out.stat().st_size,
        "classes": len(result.names),
        "class_names": list(result.names),
        "images_used": result.used,
        "images_skipped": len(result.skipped),
        "skipped": [{"path": str(path), "reason": reason} for path, reason in result.skipped],
        "candidates": [_candidate(each, result) for each in result.candidates],
        "expected_accuracy": result.expected.accuracy if result.expected else None,
        "expected_margin": result.expected.margin if result.expected else None,
        "steps": result.run.steps,
        "engine": result.engine[0],
        "engine_note": result.engine[1],
        "reclusterings": result.facts.get("reclusterings", 0),
        "resumed_at_epoch": result.run.resumed_at,
        "loss_by_epoch": result.run.losses,
        "losses": curve(result.run.losses),
        "train_accuracy": result.train.pack,
        "train_zero_shot_accuracy": result.train.zero_shot,
        "held_out_accuracy": held.pack if held else None,
        "zero_shot_accuracy": held.zero_shot if held else result.train.zero_shot,
        "held_out_images": held.n if held else 0,
        "held_out_source": result.held_out_source,
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


def _candidate(candidate: Candidate, result: Adaptation) -> dict[str, Any]:
    seen = candidate.expected
    chosen = candidate.method == result.method and candidate.bytes == result.pack.size
    return {
        "method": candidate.method,
        "bits": candidate.bits,
        "bytes": candidate.bytes,
        "fits": candidate.fits,
        "chosen": chosen,
        "accuracy": seen.accuracy if seen else None,
        "margin": seen.margin if seen else None,
        "seconds": round(candidate.seconds, 3),
    }


def curve(losses: Sequence[float]) -> list[tuple[int, float]]:
    """Epoch, counted from 1, and loss: at most CURVE_POINTS, evenly thinned, the first and the last among them."""
    import numpy as np

    chosen = np.linspace(0, len(losses) - 1, min(len(losses), CURVE_POINTS)).round().astype(int)
    return [(int(i) + 1, losses[i]) for i in chosen]


def _lines(r: dict[str, Any]) -> list[str]:
    seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in r["seconds"].items())
    engine = f", {r['engine_note']}" if r["engine_note"] else ""
    steps = f" in {r['steps']} steps" if r["steps"] else ""
    return [
        *_table(r["candidates"]),
        f"{r['pack']}  {r['bytes']} bytes, {r['classes']} classes, {r['method']} on {r['backbone']} {r['precision']}",
        _accuracy(r),
        f"learned    from {r['images_used']} photos{steps}{engine} ({seconds}; {r['peak_memory_mb']:.0f} MB)",
        *([f"report     {r['report']}"] if "report" in r else []),
    ]


def _accuracy(r: dict[str, Any]) -> str:
    """Of photos that were not learned from; where there are none, what those that were learned from say, in these words."""
    before, expected = terminal.percent(r["zero_shot_accuracy"]), None
    if r["expected_accuracy"] is not None:
        expected = f"expected on new photos: {terminal.percent(r['expected_accuracy'])}, +- {100 * r['expected_margin']:.1f}"
    if r["held_out_source"]:
        where = f"{r['held_out_images']} {r['held_out_source']} photos".replace("photos photos", "photos")
        after = f"{before} before, {terminal.percent(r['held_out_accuracy'])} after, on {where}"
        return f"accuracy   {after}" + (f" ({expected})" if expected else "")
    if expected:
        return f"accuracy   {expected} (each photo labelled by what the others teach); {before} before"
    learned = terminal.percent(r["train_accuracy"])
    return f"accuracy   {before} before, {learned} after, on the photos learned from: new ones have less"


def _table(candidates: list[dict[str, Any]]) -> list[str]:
    """What was tried, a line each."""
    lines = []
    for each in candidates:
        bits = f"{each['bits']} bit{'s' * (each['bits'] > 1)}" if each["bits"] else ""
        found = "over the budget" if not each["fits"] else "no photo can be left out"
        if each["accuracy"] is not None:
            found = f"{terminal.percent(each['accuracy']):>7} +- {100 * each['margin']:.1f}"
        mark = "*" if each["chosen"] else " "
        lines.append(f"tried    {mark} {each['method']:<10} {bits:<7} {each['bytes']:>6} bytes  {found}")
    return lines
