"""`edge-qprompt forget`: a pack that never saw some photos; at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from device_agent import terminal


@click.command("forget", short_help="Make a pack forget photos, or a class.")
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1)
@click.option("--label", metavar="NAME", help="A class to forget, with all its photos.")
@terminal.backbone_option
@terminal.providers_option
@terminal.json_option
def command(pack: Path, images: tuple[str, ...], label: str | None, backbone: str, providers: str, as_json: bool) -> None:
    """Make PACK forget what it learned from IMAGES, which are files, folders or globs, or the class of --label.

    The pack is then what `adapt` would make of the other photos, to the last byte. Neither it nor PACK.state nor the cache of
    features knows of the photos any more; copies of the pack elsewhere do, until they are replaced. There is no undo.

    \b
      edge-qprompt forget flowers.qpk photos/rose/3.jpg
      edge-qprompt forget flowers.qpk --label rose
    """
    from device_agent import learned
    from edge_qprompt.learn import forget

    if not images and label is None:
        raise click.UsageError("give the photos to forget, or a class with --label")
    photos = [path for image in images for path in terminal.expand(image)]
    result, model = learned.change(pack, backbone, providers, partial(forget, photos=photos, label=label))
    for note in result.notes:
        terminal.warn(note)
    terminal.emit(learned.facts(pack, result, model), as_json, learned.lines)
