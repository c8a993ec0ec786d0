"""`edge-qprompt pull`: the newest pack of a task, if all about it is right."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_agent import terminal
from edge_qprompt.errors import DataError, EdgeQPromptError, SignatureError
from edge_qprompt.files import write_whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from device_agent.catalogue import Catalogue
    from edge_qprompt.pack import Pack
    from edge_qprompt.trust import Statement

KEPT = ".channel.json"  # beside the pack: the envelope that was accepted last


@click.command("pull", short_help="Fetch a task's pack, if the trusted key has signed it.")
@click.argument("name", metavar="NAME", callback=terminal.checked_name)
@terminal.catalogue_options
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
    from device_agent.catalogue import Catalogue, Limits
    from edge_qprompt.backbone import Manifest, find_backbone
    from edge_qprompt.trust import read_public_key

    if not out.parent.is_dir():
        raise DataError(f"the folder {out.parent} of --out does not exist: create it first")
    key, fingerprint = read_public_key(trust), Manifest.read(find_backbone(backbone)).short_fingerprint
    try:
        with Catalogue(server, token, Limits(seconds=timeout)) as catalogue:
            facts = _pull(catalogue, key, name, channel, out, fingerprint)
    except EdgeQPromptError as error:
        stays = f"{out} stays as it was" if out.exists() else "nothing was written"
        raise type(error)(f"{error}; {stays}") from error
    terminal.emit({"server": catalogue.name, "pack": str(out)} | facts, as_json, _lines)


def _pull(catalogue: Catalogue, key: Ed25519PublicKey, name: str, channel: str, out: Path, fingerprint: bytes) -> dict[str, Any]:
    """Ask, check, and only then write: first the pack, then the statement about it."""
    from device_agent.signer import describe
    from edge_qprompt.trust import accept, check_pack

    kept = out.with_name(out.name + KEPT)
    last = _last(kept)
    envelope = catalogue.envelope(name, channel)
    statement = accept(envelope, key, name, channel, last, datetime.now(UTC))
    here = _held(out, statement.pack_id, statement.size)
    data = catalogue.pack(statement.pack_id, statement.size) if here is None else here
    pack = check_pack(data, statement, fingerprint)
    adapter = _adapter(catalogue, out, pack)
    if here is None:
        write_whole(out, data)
    if statement != last:
        write_whole(kept, envelope)
    return describe(statement, changed=here is None) | adapter


def _adapter(catalogue: Catalogue, out: Path, pack: Pack) -> dict[str, Any]:
    """Fetch what the pack refers to, unless it is beside already; before the pack, which is of no use without it."""
    from edge_qprompt.pack import MAX_BYTES, beside
    from edge_qprompt.trust import check_adapter

    if pack.shared_adapter is None:
        return {}
    path = beside(out, pack.shared_adapter)
    if (data := _held(path, pack.shared_adapter, MAX_BYTES)) is None:
        data = catalogue.pack(pack.shared_adapter, MAX_BYTES)
        check_adapter(data, pack)
        write_whole(path, data)
    return {"adapter": str(path), "adapter_size": len(data)}


def _last(kept: Path) -> Statement | None:
    """The statement that was accepted last; written by this command, so it is not verified again."""
    from edge_qprompt.trust import MAX_ENVELOPE_BYTES, Envelope

    if not kept.exists():
        return None
    try:
        with kept.open("rb") as file:
            return Envelope.decode(file.read(MAX_ENVELOPE_BYTES + 1)).statement
    except SignatureError as error:
        raise SignatureError(f"{kept}: {error}; remove it to start anew, which forgets what was accepted before") from error


def _held(path: Path, pack_id: str, size: int) -> bytes | None:
    """A pack of at most `size` bytes, if that is what the file holds already."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        data = file.read(size + 1)
    return data if hashlib.sha256(data).hexdigest() == pack_id else None


def _lines(r: dict[str, Any]) -> list[str]:
    news = "is now" if r["changed"] else "is still"
    return [
        f"{r['pack']} {news} {r['task']} version {r['version']}, {r['size']} bytes",
        f"{r['channel']} of {r['server']}, serial {r['serial']}, signed until {r['expires']}",
        *([f"adapter {r['adapter']}, {r['adapter_size']} bytes"] if "adapter" in r else []),
    ]
