"""`edge-qprompt teach`: more photos for a pack, another name for a class, or the last change back; at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from device_agent import terminal

if TYPE_CHECKING:
    from device_agent.learned import Change


@click.command("teach", short_help="Teach a pack more photos, at once.")
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1)
@click.option("--label", metavar="NAME", help="What the photos show: a class of the pack, or a new one.")
@click.option("--none", "none", is_flag=True, help="The photos show none of the classes: what looks like them is unknown.")
@click.option("--rename", nargs=2, metavar="OLD NEW", help="Give a class another name.")
@click.option("--undo", is_flag=True, help="Take back the last --label or --rename that no `forget` came after.")
@terminal.backbone_option
@terminal.providers_option
@terminal.strict_option
@terminal.json_option
def command(
    pack: Path,
    images: tuple[str, ...],
    label: str | None,
    none: bool,
    rename: tuple[str, str] | None,
    undo: bool,
    backbone: str,
    providers: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Teach PACK what IMAGES show. They are files, folders or globs.

    The pack is then what `adapt` would make of all photos, to the last byte, without the old ones: PACK.state beside it, which
    `adapt` writes, has their features and digests. A photo that was learned under another label gets the new one.

    \b
      edge-qprompt teach flowers.qpk --label rose new.jpg
      edge-qprompt teach flowers.qpk --label orchid orchids/         a new class
      edge-qprompt teach flowers.qpk --none street/                  none of the classes
      edge-qprompt teach flowers.qpk --rename rose "wild rose"
      edge-qprompt teach flowers.qpk --undo
    """
    from device_agent import learned

    result, model = learned.change(pack, backbone, providers, _change(images, label, none, rename, undo, strict))
    for note in result.notes:
        terminal.warn(note)
    terminal.emit(learned.facts(pack, result, model), as_json, learned.lines)


def _change(
    images: tuple[str, ...], label: str | None, none: bool, names: tuple[str, str] | None, take_back: bool, strict: bool
) -> Change:
    """The one thing that was asked for."""
    from edge_qprompt.learn import rename, teach, undo

    taught = (label is not None) + none
    if taught + (names is not None) + take_back != 1 or bool(images) != bool(taught):
        raise click.UsageError("give photos and their --label or --none, or --rename OLD NEW, or --undo")
    if names is not None:
        return partial(rename, old=names[0], new=names[1])
    if take_back:
        return undo
    photos = [(path, label) for image in images for path in terminal.expand(image)]
    return partial(teach, photos=photos, strict=strict)
