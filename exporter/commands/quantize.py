"""The verb `quantize` of the command line. Imports nothing heavy before it runs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_qprompt.errors import EdgeQPromptError, ExportError, MissingExtraError, extra_of
from exporter.commands.export import MEGABYTE
from exporter.photos import DEMO, MAX_PHOTOS, find_photos

if TYPE_CHECKING:
    from edge_qprompt.backbone import Manifest
    from exporter.quantize import QuantizedEncoders

PRECISIONS = ("int8", "w4a8", "w4a4")

HELP = """Give a backbone encoders of 8 and 4 bits.

\b
  edge-qprompt quantize ViT-B-16-quickgelu-openai --photos photos/ --out b16-small/
  edge-qprompt quantize nano --precision w4a8 --photos photos/ --out nano-small/ --report layers.md
  edge-qprompt adapt photos/ --backbone nano-small/ --precision w4a8 --method p4q --out task.qpk

BACKBONE is copied to a new folder; packs made for it work with the copy. Precisions:

\b
  int8   weights and activations of 8 bits; written only if it passes the gate of `export`
  w4a8   weights of 4 bits: an eighth of float32
  w4a4   weights and activations of 4 bits, attention of 8

Ranges of activations are found on photos, which should be like those that it will see; one folder a class
also gives the class names that the text encoder is calibrated with. w4a8 and w4a4 lose accuracy, the more
the smaller the model: the last lines say how much. `adapt --method p4q` learns a prompt and an adapter that
give it back.
"""


@click.command("quantize", help=HELP)
@click.argument("backbone")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="Only these; again for more.")
@click.option(
    "--photos",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=DEMO,
    help=f"Photos to calibrate and to measure on; {MAX_PHOTOS} are used.  [default: the demo's]",
)
@click.option("--text/--no-text", default=True, help="Also quantize the text encoder.  [default: yes]")
@click.option("--report", "report_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the errors layer by layer.")
@click.option("--replace", is_flag=True, help="Replace an older backbone of that name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    backbone: str,
    out: Path,
    precisions: tuple[str, ...],
    photos: Path,
    text: bool,
    report_file: Path | None,
    replace: bool,
    as_json: bool,
) -> None:
    """See HELP."""
    if photos == DEMO:
        click.echo("warning: calibrated on the demo's grey pictures of clothing: give --photos like those it will see", err=True)
    manifest, done = _quantize(backbone, out, precisions, photos, text=text, replace=replace)
    if report_file is not None:
        from edge_qprompt.files import write_whole
        from exporter.quantize import layer_report

        write_whole(report_file, layer_report(manifest.name, {name: each.quantization for name, each in done.items()}).encode())
    if as_json:
        click.echo(json.dumps({"folder": str(out), **asdict(manifest)}))
    else:
        click.echo("\n".join(_summary(manifest, done, out)))


def _quantize(
    name: str, out: Path, precisions: tuple[str, ...], photos: Path, *, text: bool, replace: bool
) -> tuple[Manifest, dict[str, QuantizedEncoders]]:
    """The heavy part: onnx is loaded here."""
    from edge_qprompt.backbone import Backbone
    from edge_qprompt.photos import to_pixels

    source = Backbone.open(name)
    chosen = find_photos(photos)
    if out.exists() and not replace:
        raise ExportError(f"{out} exists: give another --out, or --replace")
    if out.exists() and out.samefile(source.folder):
        raise ExportError(f"{out} is the backbone itself: give another --out")
    report = partial(click.echo, err=True) if sys.stderr.isatty() else _silent
    try:
        import numpy as np

        from exporter.folder import folder_copy
        from exporter.gates import readable
        from exporter.quantize import add_precisions, check_precisions, sample_of, tell
    except ModuleNotFoundError as error:
        if error.name is None or extra_of(error.name) is None:
            raise
        raise MissingExtraError(error.name, "export") from error
    wanted = precisions or tuple(each for each in PRECISIONS if each not in source.manifest.precisions)
    check_precisions(wanted, source.manifest)
    warn = partial(click.echo, err=True)
    photos_read = readable(chosen.paths, lambda line: warn(f"warning: {line}"))
    pixels = np.stack([to_pixels(photo, source.manifest.preprocess) for photo in photos_read])
    sample = sample_of(source, pixels, chosen.names)
    source.close()
    with folder_copy(source.folder, source.manifest, out, replace=replace) as work:
        try:
            manifest, done = add_precisions(work, source.manifest, wanted, sample, chosen.names if text else (), report)
        except EdgeQPromptError:
            raise
        except Exception as error:  # onnxruntime raises what it likes
            raise ExportError(f"onnxruntime cannot quantize {source.manifest.name} ({error}): please report the model") from error
        for precision, each in done.items():
            tell(precision, each, report, lambda line: warn(f"warning: {line}"))
        Backbone.open(work).verify()
        return manifest, done


def _silent(line: str) -> None:
    """Progress is for terminals."""


def _summary(manifest: Manifest, done: dict[str, QuantizedEncoders], out: Path) -> list[str]:
    from edge_qprompt.backbone import image_onnx

    lines = [f"{manifest.name} is in {out}, its image encoder as:"]
    for precision, record in manifest.precisions.items():
        size = manifest.files[image_onnx(precision)].bytes / MEGABYTE
        text = done[precision].text_cosine if precision in done else None
        words = "" if text is None else f"; text encoder: smallest cosine {text:.4f}"
        lines.append(
            f"  {precision:5} {size:8.1f} MB  smallest cosine {record.cosine:.4f}, same label for {record.top1_agreement:.1%} "
            f"of {record.photos} photos{words}"
        )
    written = [precision for precision, each in done.items() if each.written]
    again = [
        f"next: edge-qprompt adapt PHOTOS --backbone {out} --precision {name} --method p4q --out task.qpk" for name in written[:1]
    ]
    return lines + again
