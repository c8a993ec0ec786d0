"""`edge-qprompt split`: a pack parted from its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from device_agent import terminal


@click.command("split", short_help="Part a pack from its adapter, for others to share.")
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, type=click.Path(path_type=Path, dir_okay=False), help="What refers to the adapter.")
@click.option("--adapter", required=True, type=click.Path(path_type=Path, dir_okay=False), help="What holds it.")
@terminal.json_option
def command(pack: Path, prompt: Path, adapter: Path, as_json: bool) -> None:
    """Write PACK as two: a small one that refers to the adapter by its SHA-256, and one with the adapter alone.

    \b
      edge-qprompt split p4q.qpk --prompt task.qpk --adapter adapter.qpk
      edge-qprompt classify task.qpk new.jpg --adapter adapter.qpk
    """
    from edge_qprompt.pack import Pack, split

    if prompt.absolute() == adapter.absolute():
        raise click.UsageError("--prompt and --adapter are the same file: give two")
    parts = split(Pack.open(pack))
    parts.adapter.save(adapter)  # first, so that nothing refers to what is not there
    parts.prompt.save(prompt)
    result = {
        "pack": str(pack),
        "prompt": str(prompt),
        "prompt_bytes": parts.prompt.size,
        "adapter": str(adapter),
        "adapter_bytes": parts.adapter.size,
        "adapter_id": parts.adapter.pack_id,
    }
    terminal.emit(result, as_json, _lines)


def _lines(r: dict[str, Any]) -> list[str]:
    return [f"{r[part]}  {r[f'{part}_bytes']} bytes" for part in ("prompt", "adapter")] + [f"adapter    {r['adapter_id']}"]
