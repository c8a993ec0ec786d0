"""What the verbs share: options, progress on stderr, one JSON object or readable lines on stdout."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_qprompt.console import Bars
from edge_qprompt.errors import DataError

if TYPE_CHECKING:
    from edge_qprompt.backbone import Backbone
    from edge_qprompt.pack import Pack
    from edge_qprompt.photos import Source

json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")
backbone_option = click.option(
    "--backbone", default="nano", show_default=True, metavar="NAME|DIR", help="Frozen model; see `edge-qprompt backbones`."
)
PRECISION_HELP = (
    "Image encoder: fp32, or int8 and the like if exported; auto: the fastest on this machine, tried at first use, "
    "of those that lose little."
)
precision_option = click.option("--precision", default="auto", show_default=True, help=PRECISION_HELP)
packs_precision_option = click.option("--precision", show_default="the pack's, else auto", help=PRECISION_HELP)
providers_option = click.option(
    "--providers",
    default="cpu",
    show_default=True,
    metavar="NAMES",
    help="What runs the image encoder: onnxruntime's providers, the preferred one first, e.g. tensorrt,cuda,cpu.",
)
adapter_option = click.option(
    "--adapter",
    "adapters",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Pack with the adapter that PACK refers to, if `pull` has not put it beside; again for several.",
)
names_option = click.option(
    "--names", type=click.Path(path_type=Path), help="Class names: lines of label, folder and name, tab-separated."
)
classes_option = click.option(
    "--classes",
    type=click.Choice(["all", "base", "new"]),
    default="all",
    show_default=True,
    help="All, or the first or second half.",
)
template_option = click.option(
    "--template",
    "templates",
    multiple=True,
    default=["a photo of a {}."],
    show_default=True,
    help="Hand-written prompt to compare with; give it again to take the mean of several.",
)
others_option = click.option("--others", metavar="PHOTOS", help="Photos of none of the classes: a folder, a file or a glob.")
strict_option = click.option("--strict", is_flag=True, help="Stop at an unreadable photo instead of skipping it.")


def checked_name(ctx: click.Context, param: click.Parameter, value: str) -> str:  # noqa: ARG001  click's signature
    """A task's or channel's name, as options take it."""
    from edge_qprompt.trust import NAME

    if not NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no name: up to 64 lower-case letters, digits, '.', '_' and '-'")
    return value


def server_options(function: Callable[..., None]) -> Callable[..., None]:
    """What every verb takes that speaks with a server: --server, --token and --timeout."""
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="For each answer of the server, in all.",
        ),
        click.option("--token", envvar="EDGE_QPROMPT_TOKEN", metavar="T", help="Bearer token; better in EDGE_QPROMPT_TOKEN."),
        click.option(
            "--server",
            required=True,
            envvar="EDGE_QPROMPT_SERVER",
            metavar="URL",
            help="Its address, e.g. https://packs.example.org; or in EDGE_QPROMPT_SERVER.",
        ),
    ):
        function = option(function)
    return function


channel_option = click.option(
    "--channel", default="stable", show_default=True, callback=checked_name, help="Which pointer of the task."
)
expires_option = click.option(
    "--expires",
    type=click.IntRange(1, 3650),
    default=90,
    show_default=True,
    metavar="DAYS",
    help="Devices refuse the statement after that; sign again before.",
)


def progress() -> Bars:
    """Bars on stderr, one a stage; silent where stderr is no terminal."""
    return Bars(sys.stderr.isatty())


def open_backbone(name: str, precision: str, providers: str) -> Backbone:
    """The backbone that the options ask for; says on stderr what `auto` has chosen."""
    from edge_qprompt.backbone import Backbone

    backbone = Backbone.open(name, precision, providers=providers)
    if backbone.note:
        click.echo(backbone.note, err=True)
    return backbone


def open_backbone_for(packs: Mapping[str, Pack], name: str, precision: str | None, providers: str) -> Backbone:
    """The backbone that packs, by their names, run on; says on stderr which precision, and what that costs them.

    Raises:
        FingerprintError: a pack belongs to another backbone.
    """
    from edge_qprompt.backbone import FP32, Manifest, common, find_backbone, mismatch

    wanted = precision or common(list(packs.values()), Manifest.read(find_backbone(name)).precisions)
    backbone = open_backbone(name, wanted, providers)
    for pack in packs.values():
        backbone.check(pack)
    if precision is None and wanted == backbone.precision != FP32:
        click.echo(f"precision {wanted}: {' and '.join(packs)} learned for it", err=True)
    for each, pack in packs.items():
        if said := mismatch(each, pack, backbone.precision, backbone.manifest.precisions):
            warn(said)
    return backbone


def adapter_of(path: Path, pack: Pack, given: Sequence[Path]) -> Pack | None:
    """The pack with the adapter that a pack refers to: one of those given, or that beside it; None if it needs none.

    Raises:
        PackError: a file is no pack, or none holds the adapter.
    """
    from edge_qprompt.pack import Pack, beside, joined

    if pack.shared_adapter is None:
        return None
    here = beside(path, pack.shared_adapter)
    opened = [Pack.open(each) for each in (*given, *([here] if here.exists() else []))]
    found = next((each for each in opened if each.pack_id == pack.shared_adapter), opened[0] if opened else None)
    joined(pack, found)  # names what is wrong before anything slow is done
    return found


def emit(result: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], Sequence[str]]) -> None:
    """Print a result on stdout, as JSON or as what `lines` makes of it."""
    click.echo(json.dumps(result) if as_json else "\n".join(map(_shown, lines(result))))


def warn(text: str) -> None:
    """A line on stderr about something that went on regardless."""
    click.echo(f"warning: {_shown(text)}", err=True)


def _shown(text: str) -> str:
    """A line that steers no terminal, whatever a file is called."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def warn_notes(notes: Sequence[str]) -> None:
    """What of the data is left out."""
    for note in notes:
        warn(note)


def warn_skipped(skipped: Sequence[tuple[Source, str]]) -> None:
    """Name the first photos that were skipped, and count them all."""
    for _, reason in skipped[:3]:
        warn(f"skipped: {reason}")
    if skipped:
        warn(f"photos skipped in all: {len(skipped)} (--strict makes this an error)")


def percent(share: float | None) -> str:
    """0.8125 as "81.2 %"."""
    return "n/a" if share is None else f"{100 * share:.1f} %"


def expand(image: str) -> list[Path]:
    """The photos that an argument means: a file, all of a folder, or those of a glob.

    Raises:
        DataError: there is none.
    """
    from edge_qprompt.photos import list_photos

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
