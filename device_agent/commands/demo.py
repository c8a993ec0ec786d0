"""`edge-qprompt demo`: the main job on built-in photos, each step as the command a user would type."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import click

import edge_qprompt
from edge_qprompt.errors import EdgeQPromptError

PHOTOS = Path(edge_qprompt.__file__).parent / "data" / "fashion_mnist"
NEW_PHOTOS = ("photos/test/ankle_boot/0.png", "photos/test/bag/0.png", "photos/test/dress/0.png")


@click.command("demo", short_help="See it work on built-in photos, in a minute.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the pack; default: a temporary one.")
def command(out: Path | None) -> None:
    """Adapt, evaluate, inspect and classify on 660 built-in Fashion-MNIST photos. No network.

    Every step is printed as the command that does it, and runs as its own process.

    \b
      edge-qprompt demo
      edge-qprompt demo --out here/
    """
    folder = out or Path(tempfile.mkdtemp(prefix="edge-qprompt-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    photos = folder / "photos"
    if not photos.exists():
        photos.symlink_to(PHOTOS)
    click.echo(f"Ten kinds of clothes, 16 photos each to learn from, 50 each to test on. Working in {folder}\n")
    step = partial(_step, folder)
    step("Before: the hand-written prompt, nothing learned", "adapt photos --out before.qpk --method zero-shot")
    step("Learn on this machine's CPU what is best within 1000 bytes", "adapt photos --out fashion.qpk")
    step("After: the pack on the test photos", "evaluate fashion.qpk photos")
    step("What is in the pack", "inspect fashion.qpk")
    step("Label three photos with it", f"classify fashion.qpk {' '.join(NEW_PHOTOS)}")
    step(
        "The same pack with classes that it never saw",
        f"classify fashion.qpk {NEW_PHOTOS[0]} --labels 'sock,ankle boot,scarf'",
    )
    click.echo(f"The pack is {(folder / 'fashion.qpk').stat().st_size} bytes: {folder / 'fashion.qpk'}")


def _step(folder: Path, title: str, words: str) -> None:
    click.secho(f"# {title}", bold=True)
    click.echo(f"$ edge-qprompt {words}")
    command = [sys.executable, "-m", "device_agent", *shlex.split(words)]
    code = subprocess.run(command, cwd=folder, check=False).returncode
    if code:
        raise EdgeQPromptError(f"the step failed with exit code {code}")
    click.echo()
