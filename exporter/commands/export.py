"""The verb `export` of the command line. Imports nothing heavy before it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_qprompt.errors import ExportError, MissingExtraError, extra_of
from edge_qprompt.files import backbones_folder
from exporter.photos import DEMO, MAX_PHOTOS, find_photos
from exporter.request import LICENCE_UNKNOWN, Request

if TYPE_CHECKING:
    from edge_qprompt.backbone import Manifest

MEGABYTE = 1_000_000

HELP = """Turn a CLIP model of open_clip into a backbone: a folder that runs without torch.

MODEL is one of open_clip's names (ViT-B-32, RN50, convnext_base_w ...), PRETRAINED one of its
tags. OpenAI's weights, and some others, need the names that end in -quickgelu.

\b
  edge-qprompt export ViT-B-16-quickgelu openai
  edge-qprompt export ViT-B-32 laion2b_s34b_b79k --out exports/b32 --photos photos/
  edge-qprompt adapt photos/ --backbone ViT-B-16-quickgelu-openai --out task.qpk

Weights are downloaded through open_clip. On a machine without a network, give them as a file
(.safetensors, .bin, .pt, or one of OpenAI's archives); the tag then only says what they are:

\b
  edge-qprompt export ViT-B-16-quickgelu openai --checkpoint ViT-B-16.pt
  edge-qprompt export ViT-B-32 --checkpoint finetuned.pt --name mine
  edge-qprompt export mine --checkpoint mine.pt --model-config open_clip_config.json

The exported encoders are compared with the source model on photos, and nothing is written unless
they agree: cosine at least 0.9999 and the same label for every photo. The int8 image encoder, a
quarter of the size, is written if it reaches 0.99 and 98%; layers that lose too much stay in
float. Give photos like those that you will classify: they also calibrate int8.

For a vision transformer like CLIP's own, encoders that take learned tokens and changed weights are
written too: packs of MaPLe and CLIP-LoRA need them.
"""


@click.command("export", help=HELP)
@click.argument("model")
@click.argument("pretrained", required=False)
@click.option("--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="Weights in a file, instead of a download.")
@click.option(
    "--model-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The architecture of --checkpoint, if it is none of open_clip's: a JSON like its model_configs, "
    "or an open_clip_config.json.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to write.  [default: where --backbone NAME looks]",
)
@click.option("--name", help="Name of the backbone.  [default: MODEL-PRETRAINED]")
@click.option(
    "--photos",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=DEMO,
    help=f"Photos to check and to calibrate on, one folder a class or all in one; {MAX_PHOTOS} are used.  [default: the demo's]",
)
@click.option("--licence", default=LICENCE_UNKNOWN, help="Licence of the weights, kept in the manifest.")
@click.option("--int8/--no-int8", default=True, help="Also write the image encoder in int8.  [default: yes]")
@click.option("--replace", is_flag=True, help="Replace an older backbone of that name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model: str,
    pretrained: str | None,
    checkpoint: Path | None,
    model_config: Path | None,
    out: Path | None,
    name: str | None,
    photos: Path,
    licence: str,
    int8: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """See HELP."""
    try:
        request = Request(model, pretrained, checkpoint, model_config, name, licence)
    except ExportError as error:
        raise click.UsageError(str(error)) from error
    target = out or backbones_folder() / request.backbone_name
    warnings: list[str] = []

    def warn(line: str) -> None:
        warnings.append(line)
        click.echo(f"warning: {line}", err=True)

    manifest = _export(request, target, photos, int8=int8, replace=replace, warn=warn)
    if as_json:
        click.echo(json.dumps({"folder": str(target), "warnings": warnings, **asdict(manifest)}))
    else:
        click.echo(_summary(manifest, target, by_name=out is None))


def _export(request: Request, target: Path, photos: Path, *, int8: bool, replace: bool, warn: Callable[[str], None]) -> Manifest:
    """The heavy part: torch and open_clip are loaded here."""
    chosen = find_photos(photos)
    if target.exists() and not replace:  # checked again when it is written; this saves the download
        raise ExportError(f"{target} exists: give another --out, or --replace")
    report = partial(click.echo, err=True) if sys.stderr.isatty() else _silent
    report(f"loading {request.model}")
    try:
        from exporter.export import export
        from exporter.source import load

        source = load(request)
        manifest = export(source, target, chosen.paths, chosen.names, int8=int8, replace=replace, report=report, warn=warn)
    except ModuleNotFoundError as error:
        if error.name is None or extra_of(error.name) is None:
            raise
        raise MissingExtraError(error.name, "export") from error
    if "int8" in manifest.precisions and photos == DEMO:
        warn("int8 was calibrated and measured on the demo's grey pictures of clothing: give --photos like those it will see")
    return manifest


def _silent(line: str) -> None:
    """Progress is for terminals."""


def _summary(manifest: Manifest, target: Path, *, by_name: bool) -> str:
    lines = [f"{manifest.name} is in {target}: {manifest.embed_dim} dimensions, fingerprint {manifest.fingerprint[:16]}"]
    for name, record in manifest.files.items():
        lines.append(f"  {name:21} {record.bytes / MEGABYTE:8.1f} MB")
    for precision, measured in manifest.precisions.items():
        lines.append(
            f"  {precision}: smallest cosine {measured.cosine:.6f}, same label for {measured.top1_agreement:.1%} "
            f"of {measured.photos} photos"
        )
    lines.append(f"next: edge-qprompt adapt PHOTOS --backbone {manifest.name if by_name else target}")
    return "\n".join(lines)
