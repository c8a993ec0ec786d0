"""`edge-qprompt rollback`: a channel back to an earlier version."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from device_agent import terminal
from edge_qprompt.errors import ServerError, SignatureError

if TYPE_CHECKING:
    from device_agent.client import Client


SHOWN = 10  # versions that an error names
MOST = (1 << 31) - 2  # version numbers have 31 bits


@click.command("rollback", short_help="Point devices at an earlier version again.")
@click.argument("name", metavar="NAME", callback=terminal.checked_name)
@terminal.server_options
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="KEY that has signed that version; KEY.log must say so."
)
@click.option(
    "--to", type=click.IntRange(1, MOST), metavar="VERSION", help="Which version; default: the one before the current one."
)
@terminal.channel_option
@terminal.expires_option
@terminal.json_option
def command(
    name: str,
    server: str,
    token: str | None,
    timeout: float,
    key: Path,
    to: int | None,
    channel: str,
    expires: int,
    as_json: bool,
) -> None:
    """Sign and promote an earlier version of task NAME. The statement is a new one, so devices take it.

    Only a pack that KEY has signed before is signed again (KEY.log, which `push` writes, holds the
    proof): a server cannot slip another one in. Where the log is elsewhere, push the file itself again.

    \b
      edge-qprompt rollback flowers --server https://packs.example.org --key fleet
      edge-qprompt rollback flowers --server https://packs.example.org --key fleet --to 3
    """
    from device_agent.client import Client, ClientLimits
    from device_agent.commands.push import lines
    from device_agent.signer import Signer, describe, from_now, promote

    signer = Signer(key)
    with Client(server, token, ClientLimits(seconds=timeout)) as client:
        version, pack_id = _before_current(client, name, channel) if to is None else _version(client, name, to)
        if (known := signer.signed(name, pack_id)) is None:
            raise SignatureError(
                f"{signer.log} does not show that this key has signed version {version} of {name}, pack {pack_id[:64]!r}: "
                "if you have that pack, push it again, which gives it the same version"
            )
        issued, expiry = from_now(expires)
        wanted = dataclasses.replace(known, channel=channel, version=version, issued=issued, expires=expiry)
        facts = describe(*promote(client, signer, wanted))
    terminal.emit({"server": client.name} | facts, as_json, lines)


def _version(client: Client, name: str, wanted: int) -> tuple[int, str]:
    """A version and its pack's id."""
    found = next(client.versions(name, wanted + 1), None)
    if found is None or found[0] != wanted:
        raise ServerError(f"{name} has no version {wanted} on {client.name}, it has {_newest(client, name)}")
    return found


def _before_current(client: Client, name: str, channel: str) -> tuple[int, str]:
    """The version before the one that a channel points at, and its pack's id."""
    envelope = client.newest(name, channel)
    if envelope is None:
        raise ServerError(f"channel {channel} of {name} points nowhere yet: push a pack first")
    current = envelope.statement.version
    if found := next(client.versions(name, current), None):
        return found
    raise ServerError(
        f"{channel} of {name} is version {current}, and there is none before it: choose with --to from {_newest(client, name)}"
    )


def _newest(client: Client, name: str) -> str:
    """Numbers of the newest versions."""
    found = [number for number, _ in itertools.islice(client.versions(name), SHOWN)]
    return ", ".join(map(str, sorted(found))) or "none"
