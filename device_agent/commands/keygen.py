"""`edge-qprompt keygen`: a key that signs what devices believe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from device_agent import terminal


@click.command("keygen", short_help="Make the key that signs packs for devices.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="KEY, the private key; KEY.pub is written beside it.",
)
@terminal.json_option
def command(out: Path, as_json: bool) -> None:
    """Make an Ed25519 key pair. `push` signs with KEY, and devices trust KEY.pub.

    Keep KEY secret and keep a copy: who has it decides what every device runs, and without it none
    can be told anything new. It is written for its owner alone (mode 0600), and never overwritten.

    \b
      edge-qprompt keygen --out fleet
      edge-qprompt push flowers.qpk --key fleet --task flowers --server https://packs.example.org
      edge-qprompt pull flowers --trust fleet.pub --out flowers.qpk --server https://packs.example.org
    """
    from edge_qprompt.trust import key_id, new_key_pair, public_path, write_key_pair

    private_key, public_key = new_key_pair()
    write_key_pair(out, private_key)
    result = {"key": str(out), "public": str(public_path(out)), "key_id": key_id(public_key)}
    terminal.emit(result, as_json, _lines)


def _lines(r: dict[str, Any]) -> list[str]:
    return [
        f"{r['key']}  signs: keep it secret, and a copy of it safe",
        f"{r['public']}  goes to the devices (key {r['key_id']})",
    ]
