"""An update: what a device asks of a channel statement, and of a pack, before it believes either.

Decisions only, without files, network or clock. What each question is for, by the attacks that
The Update Framework lists (theupdateframework.io, specification, section 1.5.2):

    signed by the trusted key       arbitrary software, whatever the server says
    names this task and channel     mix and match, wrong software
    serial not below the last one   rollback: an old statement is as well signed as a new one
    not expired, by a sane clock    freeze: a server that hides what is new
    size, SHA-256, backbone         endless data, mix and match, a pack of another model
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from edge_qprompt.errors import FingerprintError, PackError, SignatureError
from edge_qprompt.pack import Pack, joined
from edge_qprompt.trust.statement import Envelope, Statement, stamp, verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CLOCK_SKEW = timedelta(minutes=5)  # two machines that both set their clocks by the network differ by seconds


def accept(
    data: bytes, public_key: Ed25519PublicKey, task: str, channel: str, last: Statement | None, now: datetime
) -> Statement:
    """Decide whether to believe what a server says is the newest statement of a channel.

    Args:
        data: the envelope as it came.
        public_key: the one that is trusted.
        task, channel: what was asked for.
        last: the statement that was accepted last, or None at first; equal to the result if nothing is new.
        now: aware.

    Raises:
        SignatureError: says which of the module's questions has the wrong answer.
    """
    statement = verify(Envelope.decode(data), public_key)
    if (statement.task, statement.channel) != (task, channel):
        said = f"{statement.task} {statement.channel}"
        raise SignatureError(f"the statement is about {said}, wanted {task} {channel}: the server mixes its answers up")
    _check_clock(statement, last, now)
    if last:
        _check_successor(statement, last)
    if now >= statement.expires:
        raise SignatureError(
            f"the statement expired {stamp(statement.expires)}: either nobody has signed since (`edge-qprompt push` does), "
            "or somebody keeps newer statements back"
        )
    return statement


def check_pack(data: bytes, statement: Statement, fingerprint: bytes) -> Pack:
    """Make sure that these bytes are the pack of an accepted statement, and fit this device.

    Args:
        data: the pack as it came; a reader should stop after `statement.size` bytes.
        statement: from `accept`.
        fingerprint: 8 bytes, of the device's backbone.

    Raises:
        PackError: other bytes than those that were signed, or no pack.
        FingerprintError: for another backbone.
    """
    if len(data) != statement.size:
        raise PackError(f"the pack is {len(data)} bytes, the statement says {statement.size}: it was cut short or exchanged")
    if (got := hashlib.sha256(data).hexdigest()) != statement.pack_id:
        raise PackError(f"the pack has SHA-256 {got}, the statement says {statement.pack_id}: it was damaged or exchanged")
    pack = Pack.decode(data)
    if not pack.fingerprint.hex() == statement.backbone == fingerprint.hex():
        raise FingerprintError(
            f"the pack was learned on backbone {pack.fingerprint.hex()}, its statement says {statement.backbone}, this device "
            f"has {fingerprint.hex()}: choose that one with --backbone; `edge-qprompt backbones` lists fingerprints"
        )
    return pack


def check_adapter(data: bytes, pack: Pack) -> None:
    """Make sure that these bytes are the adapter that a checked pack refers to: its SHA-256 is in what was signed.

    Raises:
        PackError: other bytes, or no pack with an adapter.
        FingerprintError: for another backbone.
    """
    if (got := hashlib.sha256(data).hexdigest()) != pack.shared_adapter:
        raise PackError(f"the adapter has SHA-256 {got}, the pack says {pack.shared_adapter}: it was damaged or exchanged")
    joined(pack, Pack.decode(data))


def _check_clock(statement: Statement, last: Statement | None, now: datetime) -> None:
    """A clock that was set back would let an expired statement live on."""
    newest = max(statement.issued, last.issued if last else statement.issued)
    if now + CLOCK_SKEW < newest:
        raise SignatureError(
            f"this device's clock says {stamp(now)}, but a statement was signed {stamp(newest)}: set the clock here, "
            "or on the machine that signed"
        )


def _check_successor(statement: Statement, last: Statement) -> None:
    """The same statement as last time, or a later one of the same channel."""
    if (last.task, last.channel) != (statement.task, statement.channel):
        said = f"{last.task} {last.channel}"
        raise SignatureError(
            f"what was accepted here before is {said}, now wanted {statement.task} {statement.channel}: give each its own --out"
        )
    if statement.serial < last.serial:
        raise SignatureError(
            f"the statement has serial {statement.serial}, {last.serial} was accepted here before: somebody offers an old state; "
            "if the server was set up anew on purpose, remove the .channel.json beside the pack"
        )
    if statement.serial == last.serial and statement != last:
        raise SignatureError(
            f"there are two statements of serial {last.serial}, another was accepted here before: promote once more"
        )
