"""`edge-qprompt pull`: the newest pack of a task, if all about it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from device_agent import terminal
from edge_qprompt.errors import FingerprintError, PackError, ServerError, SignatureError


@click.command("pull", short_help="Fetch a task's pack, if the trusted key has signed it.")
@click.argument("name", metavar="NAME", callback=terminal.checked_name)
@terminal.server_options
@click.option("--trust", required=True, type=click.Path(path_type=Path), help="KEY.pub that `edge-qprompt keygen` wrote.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The pack to write or renew.")
@terminal.channel_option
@terminal.backbone_option
@terminal.json_option
def command(
    name: str,
    server: str,
    token: str | None,
    timeout: float,
    trust: Path,
    out: Path,
    channel: str,
    backbone: str,
    as_json: bool,
) -> None:
    """Fetch the pack of task NAME, from a server that need not be trusted.

    The key decides, not the server: the statement about the pack must be signed by it, be about this task
    and channel, not be older than the last one (kept beside the pack, as P.qpk.channel.json), and not
    have expired; the pack must be the very bytes it names, and of this --backbone. If anything is wrong,
    the pack that is there stays, and the command ends with 1. So a timer may run it every hour.
    An adapter that the pack refers to is fetched too, and lies beside it.

    \b
      edge-qprompt pull flowers --server https://packs.example.org --trust fleet.pub --out flowers.qpk
    """
    from device_agent.client import ClientLimits
    from device_agent.signer import describe
    from device_agent.updater import Updater

    try:
        with Updater(server, trust, backbone, token, ClientLimits(seconds=timeout)) as updater:
            pulled = updater.pull(name, out, channel)
    except (ServerError, SignatureError, PackError, FingerprintError) as error:
        stays = f"{out} stays as it was" if out.exists() else "nothing was written"
        raise type(error)(f"{error}; {stays}") from error
    facts = {"server": updater.client.name, "pack": str(out)} | describe(pulled.statement, pulled.changed)
    if pulled.adapter:
        facts |= {"adapter": str(pulled.adapter[0]), "adapter_size": pulled.adapter[1]}
    terminal.emit(facts, as_json, _lines)


def _lines(r: dict[str, Any]) -> list[str]:
    news = "is now" if r["changed"] else "is still"
    return [
        f"{r['pack']} {news} {r['task']} version {r['version']}, {r['size']} bytes",
        f"{r['channel']} of {r['server']}, serial {r['serial']}, signed until {r['expires']}",
        *([f"adapter {r['adapter']}, {r['adapter_size']} bytes"] if "adapter" in r else []),
    ]
