"""A signer: the private key, and the log of what it has signed.

    KEY          the private key
    KEY.pub      what devices trust
    KEY.log      every envelope that was signed with KEY, one a line; no secret, and it proves itself

The log is why going back a version needs no trust in the server: a pack is signed again only if this
key has signed it before, whatever a server says that the version was.
"""

from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from device_agent.client import Client
from edge_qprompt.errors import ServerError, SignatureError
from edge_qprompt.trust import MAX_ENVELOPE_BYTES, Envelope, Statement, read_private_key, sign, stamp, verify

ATTEMPTS = 5  # at a channel that others promote to at the same moment


class Signer:
    """A publisher's private key, and the log of every statement that it has signed.

    Args:
        path: KEY.

    Raises:
        SignatureError: there is no usable key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path.with_name(path.name + ".log")
        self._key = read_private_key(path)

    def sign(self, statement: Statement) -> Envelope:
        """Sign a statement, and note it in the log first.

        Raises:
            OSError: the log cannot be written.
        """
        envelope = sign(statement, self._key)
        with self.log.open("ab") as file:
            file.write(envelope.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return envelope

    def verified(self, envelope: Envelope | None) -> Statement | None:
        """What an envelope says, if this key has signed it."""
        try:
            return verify(envelope, self._key.public_key()) if envelope else None
        except SignatureError:
            return None

    def signed(self, task: str, pack_id: str) -> Statement | None:
        """The last statement in the log about a pack of a task; lines that this key did not sign do not count."""
        found = None
        if not self.log.exists():
            return None
        with self.log.open("rb") as file:
            while line := file.readline(MAX_ENVELOPE_BYTES):
                statement = self.verified(_parsed(line))
                if statement and (statement.task, statement.pack_id) == (task, pack_id):
                    found = statement
        return found


def promote(client: Client, signer: Signer, wanted: Statement) -> tuple[Statement, bool]:
    """Sign the next statement of a channel and promote it, unless the newest one says the same for long enough.

    Args:
        client: where.
        signer: who.
        wanted: what; its serial does not matter.

    Returns:
        The statement that holds now, and whether it is a new one.

    Raises:
        ServerError: the server refuses; or others were faster each time.
    """
    for _ in range(ATTEMPTS):
        envelope = client.newest(wanted.task, wanted.channel)
        if (own := signer.verified(envelope)) and _says(own, wanted):
            return own, False
        statement = dataclasses.replace(wanted, serial=envelope.statement.serial + 1 if envelope else 1)
        try:
            client.promote(statement.task, statement.channel, statement.version, signer.sign(statement))
        except ServerError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            refusal = error
        else:
            return statement, True
    raise ServerError(f"{refusal} (tried {ATTEMPTS} times: somebody else promotes here, try again)")


def from_now(days: int) -> tuple[datetime, datetime]:
    """When a statement of now is issued, and when it expires."""
    issued = datetime.now(UTC).replace(microsecond=0)
    return issued, issued + timedelta(days=days)


def describe(statement: Statement, changed: bool) -> dict[str, Any]:
    """What `promote` gave, as plain data."""
    times = {"issued": stamp(statement.issued), "expires": stamp(statement.expires)}
    return dataclasses.asdict(statement) | times | {"changed": changed}


def _says(own: Statement, wanted: Statement) -> bool:
    """The same, and at least half of the time that is wanted is left."""
    same = dataclasses.replace(own, serial=wanted.serial, issued=wanted.issued, expires=wanted.expires) == wanted
    return same and own.expires - wanted.issued >= (wanted.expires - wanted.issued) / 2


def _parsed(line: bytes) -> Envelope | None:
    try:
        return Envelope.decode(line)
    except SignatureError:
        return None
