"""`edge-qprompt push`: a pack to a server, and a signed statement for the devices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_agent import terminal
from edge_qprompt.errors import DataError, StateError

if TYPE_CHECKING:
    from edge_qprompt.pack import Pack

MAX_REPORT_BYTES = 256 << 10  # what servers take
LOCAL = ("pack", "skipped")  # paths on this machine, which are nobody else's business


@click.command("push", short_help="Publish a pack on a server, signed for devices.")
@click.argument("pack", type=click.Path(path_type=Path))
@terminal.server_options
@click.option("--task", required=True, callback=terminal.checked_name, help="Whose next version the pack is.")
@click.option("--key", type=click.Path(path_type=Path), help="KEY that `edge-qprompt keygen` wrote; signs the statement.")
@terminal.channel_option
@terminal.expires_option
@click.option("--no-promote", is_flag=True, help="Only publish: no channel moves, nothing is signed.")
@click.option("--report", type=click.Path(path_type=Path), help="What `adapt --json` printed, to be shown beside the version.")
@click.option(
    "--state",
    "with_state",
    is_flag=True,
    help="Also send the state beside PACK, so that the server can be taught one photo more. It holds no photo, but a feature of "
    "each, which tells much of what it shows.",
)
@terminal.json_option
def command(
    pack: Path,
    server: str,
    token: str | None,
    timeout: float,
    task: str,
    key: Path | None,
    channel: str,
    expires: int,
    no_promote: bool,
    report: Path | None,
    with_state: bool,
    as_json: bool,
) -> None:
    """Publish PACK as the next version of a task, and point a channel at it with a signed statement.

    The same pack again is the same version, and the same statement as long as half of --expires is
    left: so run it again, e.g. every week, before devices refuse what has expired.

    \b
      edge-qprompt push flowers.qpk --server https://packs.example.org --task flowers --key fleet
      edge-qprompt push flowers.qpk ... --report flowers.json        what `adapt --json > flowers.json` printed
      edge-qprompt push flowers.qpk ... --state                      the server's page can correct it then
      edge-qprompt push flowers.qpk ... --channel beta               to try it on some devices first
    """
    from device_agent.client import Client, ClientLimits
    from device_agent.signer import Signer, describe, from_now, promote
    from edge_qprompt.pack import Pack
    from edge_qprompt.trust import Statement

    if key is None and not no_promote:
        raise click.UsageError("--key is needed to sign for the channel; or only publish, with --no-promote")
    opened, learned = Pack.open(pack), _report(report)
    state = _state(pack, opened) if with_state else None
    signer = Signer(key) if key and not no_promote else None
    facts: dict[str, Any] = {"task": task, "pack_id": opened.pack_id, "size": opened.size}
    with Client(server, token, ClientLimits(seconds=timeout)) as client:
        version, warnings = client.publish(task, opened.encode(), learned, state)
        facts["version"] = version
        for said in warnings:
            terminal.warn(said)
        if signer:
            backbone = opened.fingerprint.hex()
            wanted = Statement(task, channel, 1, version, opened.pack_id, opened.size, backbone, *from_now(expires))
            facts = describe(*promote(client, signer, wanted))
    terminal.emit({"server": client.name} | facts, as_json, lines)


def _state(path: Path, pack: Pack) -> bytes:
    """What a pack was learned from, without the changes that it had before: nobody else needs to know of these."""
    from device_agent.learned import state_of
    from edge_qprompt.learn import state_path

    found = state_of(path, pack)
    if found is None or found.pack_id != pack.pack_id:
        said = "is not there" if found is None else "is of a pack that could not be written"
        raise StateError(
            f"--state cannot be sent, since {state_path(path)} {said}: learn the pack again with `edge-qprompt adapt`, "
            "or push without it"
        )
    return dataclasses.replace(found, history=(), before="").encode()


def _report(path: Path | None) -> str | None:
    """The text of a JSON object."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            text = file.read(MAX_REPORT_BYTES + 1).decode()
        if len(text) > MAX_REPORT_BYTES:
            raise ValueError(f"it is larger than {MAX_REPORT_BYTES} bytes")
        report = json.loads(text)
        if not isinstance(report, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"--report {path} cannot be used ({error}): give what `adapt --json` printed, or leave it out") from error
    return json.dumps({key: value for key, value in report.items() if key not in LOCAL})


def lines(r: dict[str, Any]) -> list[str]:
    """The result for people."""
    published = f"{r['task']} version {r['version']}  {r['size']} bytes, pack {r['pack_id'][:16]} on {r['server']}"
    if "channel" not in r:
        return [published, "no channel was moved"]
    moved = "now" if r["changed"] else "already, nothing changes:"
    return [published, f"{r['channel']} is {moved} version {r['version']}, serial {r['serial']}, signed until {r['expires']}"]
