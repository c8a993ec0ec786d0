"""`edge-qprompt adapt`: photos in, a pack out."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_agent import outcome, terminal
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
    from edge_qprompt.learn import Adaptation, AdaptSettings, Option
    from edge_qprompt.photos import Dataset

FAST = "qres"
OF_PROMPTS = ("bits", "ctx", "epochs", "batch", "lr")  # options that mean nothing to "auto"


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
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    callback=_finite,
    default=0.0,
    show_default="0: none",
    help="Seconds in which auto may try what is learned step by step as well; the best is then learned on all photos.",
)
@click.option("--fast", is_flag=True, help="The same as --method qres: milliseconds after the photos are encoded.")
@click.option(
    "--bits", type=click.IntRange(1, 8), show_default="1, for qmaple 4", help="Bits a weight of a prompt, or of a discriminant."
)
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
@terminal.others_option
@click.option("--no-state", is_flag=True, help="Keep no features beside the pack: no teach, no forget.")
@terminal.strict_option
@terminal.json_option
def command(
    data: Path,
    out: Path,
    as_json: bool,
    names: Path | None,
    resume: bool,
    report: Path | None,
    others: str | None,
    no_state: bool,
    **options: Any,
) -> None:
    """Learn a pack of a few hundred bytes from a folder of photos, on this machine.

    DATA has one folder per class; `train/` and `test/` inside are honoured, and so is a
    `classes.txt` (label, folder, name, tab-separated). Or it is a CSV with lines `path,label`.

    \b
      edge-qprompt adapt photos/ --out flowers.qpk
      edge-qprompt adapt photos/ --out flowers.qpk --budget 400       the best of fewer bytes
      edge-qprompt adapt photos/ --out flowers.qpk --seconds 120      tries prompts as well
      edge-qprompt adapt photos/ --out flowers.qpk --method qcoop     a prompt of the paper's, for any names
      edge-qprompt adapt photos/ --out flowers.qpk --shots 4 --bits 2 --views 4
      edge-qprompt adapt photos/ --out base.qpk --classes base      first half of the classes
      edge-qprompt adapt photos/ --out flowers.qpk --resume         after Ctrl-C or a power cut

    The same command gives the same bytes, but with --seconds, which do for more on a faster machine. Beside the pack lies its
    state, e.g. flowers.qpk.state: the photos' features and digests, no photo, for `teach`, `forget` and `evaluate`. Features
    are cached, so a second run is quicker.
    """
    from edge_qprompt.files import locked
    from edge_qprompt.pack import names_section
    from edge_qprompt.photos import load_dataset
    from edge_qprompt.prompts import check_template

    options["method"] = _method(options)
    step_by_step = options["method"] != AUTO and not issubclass(METHODS[options["method"]], ClosedForm)
    if step_by_step and importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch")
    _check_target(out)
    if report is not None:
        from device_agent.html_page import check_folder

        check_folder(report)
    for template in options["templates"]:
        check_template(template)
    backbone = terminal.open_backbone(options["backbone"], _precision(options), options["providers"])
    dataset = load_dataset(data, names).select(options["classes"])
    names_section(dataset.names)  # a name that no pack can hold is better known now than after learning
    from edge_qprompt.learn import adapt, state_path

    foreign = terminal.expand(others) if others else ()
    terminal.warn_notes(dataset.notes)
    _warn_few(dataset, options["shots"])
    checkpoint = out.with_name(out.name + ".checkpoint")
    if resume and not checkpoint.exists():
        terminal.warn(f"there is no {checkpoint.name} to resume from, starting at the beginning")
    settings = _settings(options)
    try:
        with terminal.progress() as progress:
            result = adapt(backbone, dataset, settings, checkpoint, others=foreign, resume=resume, progress=progress)
    except KeyboardInterrupt:
        if checkpoint.exists():
            terminal.warn("stopped; the same command with --resume goes on from the last checkpoint")
        raise
    with locked(out.parent):
        if no_state:
            state_path(out).unlink(missing_ok=True)  # what lies there is of another pack
        else:
            result.state.save(out)
        result.pack.save(out)
    checkpoint.unlink(missing_ok=True)
    terminal.warn_skipped(result.skipped)
    terminal.warn_notes(result.notes)
    facts = {"backbone": backbone.manifest.name, "precision": backbone.precision, "method": result.method}
    told = outcome.facts(result, out) | facts | {"seed": options["seed"]}
    if report is not None:
        told["report"] = str(_write_page(result, told, report))
    terminal.emit(told, as_json, outcome.lines)


def _method(options: dict[str, Any]) -> str:
    """What to learn with. What is said about a prompt, or about one method alone, needs that method."""
    named = click.get_current_context().get_parameter_source("method") is not click.core.ParameterSource.DEFAULT
    if (named and options["method"] != AUTO) or options["fast"]:
        for name, said in (("budget", options["budget"] is not None), ("seconds", options["seconds"] > 0)):
            if said:
                raise click.UsageError(f"--{name} is what auto chooses within: leave it out, or the method")
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
    if told["held_out_accuracy"] is not None:
        facts.append((f"accuracy, {told['held_out_source']} photos", terminal.percent(told["held_out_accuracy"])))
    if told["expected_accuracy"] is not None:
        seen = f"{terminal.percent(told['expected_accuracy'])}, +- {100 * told['expected_margin']:.1f}"
        facts.append(("accuracy to expect on new photos", seen))
    facts.append(("accuracy on the photos learned from", terminal.percent(told["train_accuracy"])))
    facts.append(("hand-written prompt", terminal.percent(told["zero_shot_accuracy"])))
    write_whole(folder / "report.html", page(result, facts).encode(errors="backslashreplace"))
    return folder / "report.html"


def _settings(options: dict[str, Any]) -> AdaptSettings:
    from edge_qprompt.codebook import ClusterSettings
    from edge_qprompt.learn import AdaptSettings, EngineSettings, LoopSettings, MethodSettings

    return AdaptSettings(
        method=options["method"],
        budget=options["budget"],
        seconds=options["seconds"],
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
    for own in ("prompt_bits", "discriminant_bits"):
        if options["bits"] and any(each.name == own for each in fields(method.Options)):
            named[own] = options["bits"]
    return {**named, **options["own"]}


def _check_target(out: Path) -> None:
    """Fail before the work, not after it."""
    if out.exists() and not out.is_file():
        raise DataError(f"--out {out} is not a regular file: choose another")
    if not out.parent.is_dir():
        raise DataError(f"the folder {out.parent} of --out does not exist: create it first")
    if not os.access(out.parent, os.W_OK):
        raise DataError(f"the folder {out.parent} of --out cannot be written to: choose another")


def _warn_few(dataset: Dataset, shots: int) -> None:
    counts = {name: dataset.train.labels.count(label) for label, name in enumerate(dataset.names)}
    few = [f"{name} ({count})" for name, count in counts.items() if 0 < count < shots]
    if few:
        listed = ", ".join(few[:5]) + (" ..." if len(few) > 5 else "")
        terminal.warn(f"{len(few)} of {len(counts)} classes have fewer than {shots} photos and use what they have: {listed}")
