"""The channel statement: what a publisher signs so that a device may believe it, whoever hands it out.

    {"backbone":"..","channel":"stable","expires":"2026-11-21T14:00:00Z","issued":..,"pack_id":"..",
     "serial":3,"size":296,"task":"flowers","version":2}

"From serial 3 on, channel stable of task flowers is version 2, which is these bytes for that backbone,
until then." It travels in a DSSE envelope (github.com/secure-systems-lab/dsse, protocol and envelope
1.0.0), signed with Ed25519. Any bytes at all decode or raise a SignatureError, and a statement has
exactly one form in bytes. `docs/adr/0008-signed-channels.md` says why it is so.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import reprlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from edge_qprompt.errors import SignatureError
from edge_qprompt.pack import MAX_BYTES
from edge_qprompt.trust.keys import key_id, new_key_pair, public_path, read_private_key, read_public_key, write_key_pair

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "Envelope",
    "Signature",
    "Statement",
    "key_id",
    "new_key_pair",
    "pae",
    "public_path",
    "read_private_key",
    "read_public_key",
    "sign",
    "verify",
    "write_key_pair",
]

PAYLOAD_TYPE = "application/vnd.edge-qprompt.channel+json"
MAX_ENVELOPE_BYTES = 8192  # the longest statement with eight signatures takes less than 2,000
MAX_SIGNATURES = 8
MAX_NUMBER = 2**53 - 1  # the largest that every JSON reader keeps exactly
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
PACK_ID = re.compile(r"[0-9a-f]{64}")
BACKBONE = re.compile(r"[0-9a-f]{16}")
URL_SAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class Statement:
    """What a publisher signs: which pack a channel of a task is, and until when.

    Attributes:
        task, channel: names.
        serial: rises by one with every statement of the channel, also when it goes back a version.
        version: of the task.
        pack_id: hex SHA-256 of the pack's bytes.
        size: of the pack in bytes.
        backbone: hex of the 8 bytes of fingerprint in the pack.
        issued, expires: UTC, whole seconds.

    Raises:
        SignatureError: a field is out of its range.
    """

    task: str
    channel: str
    serial: int
    version: int
    pack_id: str
    size: int
    backbone: str
    issued: datetime
    expires: datetime

    def __post_init__(self) -> None:
        for what, pattern in (("task", NAME), ("channel", NAME), ("pack_id", PACK_ID), ("backbone", BACKBONE)):
            text = getattr(self, what)
            if not isinstance(text, str) or not pattern.fullmatch(text):
                raise SignatureError(f"the statement's {what} is {reprlib.repr(text)}, it must be {pattern.pattern}")
        for what, most in (("serial", MAX_NUMBER), ("version", MAX_NUMBER), ("size", MAX_BYTES)):
            number = getattr(self, what)
            if type(number) is not int or not 1 <= number <= most:  # True is an int too
                raise SignatureError(f"the statement's {what} is {reprlib.repr(number)}, it must be 1 to {most}")
        for what in ("issued", "expires"):
            time = getattr(self, what)
            if time.utcoffset() != timedelta(0) or time.microsecond:
                raise SignatureError(f"the statement's {what} is {time}, it must be whole seconds of UTC")
        if self.expires <= self.issued:
            raise SignatureError(f"the statement expires {stamp(self.expires)}, before it was issued {stamp(self.issued)}")

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces."""
        facts = dataclasses.asdict(self) | {"issued": stamp(self.issued), "expires": stamp(self.expires)}
        return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Statement:
        """Parse and check a statement; its `encode` gives `data` again.

        Raises:
            SignatureError: whatever is wrong with `data`.
        """
        facts = _json_object(data, "statement")
        if facts.keys() != FIELDS:
            got = reprlib.repr(sorted(facts))
            raise SignatureError(f"the statement has the fields {got}, wanted {sorted(FIELDS)}: upgrade edge-qprompt")
        statement = cls(**facts | {what: _time(what, facts[what]) for what in ("issued", "expires")})
        if statement.encode() != data:
            raise SignatureError(
                "the statement is not in canonical form: sorted keys, no spaces, times like 2026-11-21T14:00:00Z"
            )
        return statement


FIELDS = {field.name for field in dataclasses.fields(Statement)}


@dataclass(frozen=True)
class Signature:
    """One signature of an envelope.

    Attributes:
        key_id: whose it claims to be; a hint that nothing may rely on.
        value: its bytes.
    """

    key_id: str
    value: bytes


@dataclass(frozen=True)
class Envelope:
    """A DSSE envelope of a channel statement.

    Attributes:
        payload: the statement's bytes, as they were signed.
        signatures: none of an unsigned one, at most MAX_SIGNATURES.

    Raises:
        SignatureError: there are too many, or the envelope would be larger than MAX_ENVELOPE_BYTES.
    """

    payload: bytes
    signatures: tuple[Signature, ...] = ()

    def __post_init__(self) -> None:
        if len(self.signatures) > MAX_SIGNATURES:
            raise SignatureError(f"the envelope has {len(self.signatures)} signatures, at most {MAX_SIGNATURES} are possible")
        if (size := len(self.encode())) > MAX_ENVELOPE_BYTES:
            raise SignatureError(f"the envelope is {size} bytes, at most {MAX_ENVELOPE_BYTES} are possible")

    @property
    def statement(self) -> Statement:
        """What it says, whoever signed it: see `verify`.

        Raises:
            SignatureError: the payload is not a statement.
        """
        return Statement.decode(self.payload)

    def encode(self) -> bytes:
        """The JSON form; `decode` of it gives an equal envelope."""
        signatures = [{"keyid": each.key_id, "sig": _base64(each.value)} for each in self.signatures]
        return json.dumps({"payload": _base64(self.payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Parse an envelope by DSSE's rules: other fields are ignored, a key id may be missing, base64 may be URL-safe.

        Raises:
            SignatureError: whatever is wrong with `data`.
        """
        if len(data) > MAX_ENVELOPE_BYTES:
            raise SignatureError(f"the envelope is larger than {MAX_ENVELOPE_BYTES} bytes: is this a server of edge-qprompt?")
        facts = _json_object(data, "envelope")
        if (kind := facts.get("payloadType")) != PAYLOAD_TYPE:
            raise SignatureError(f"the envelope holds {reprlib.repr(kind)}, wanted {PAYLOAD_TYPE}")
        signatures = facts.get("signatures")
        if not isinstance(signatures, list) or not all(isinstance(each, dict) for each in signatures):
            raise SignatureError(f"the envelope's signatures are {reprlib.repr(signatures)}, wanted a list of objects")
        return cls(_bytes(facts, "payload"), tuple(Signature(_key_id(each), _bytes(each, "sig")) for each in signatures))


def pae(payload_type: str, body: bytes) -> bytes:
    """What DSSE signs, its Pre-Authentication Encoding (protocol 1.0.0, "Signature Definition")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def sign(statement: Statement, private_key: Ed25519PrivateKey) -> Envelope:
    """Put a statement into an envelope with one signature."""
    payload = statement.encode()
    value = private_key.sign(pae(PAYLOAD_TYPE, payload))
    return Envelope(payload, (Signature(key_id(private_key.public_key()), value),))


def verify(envelope: Envelope, public_key: Ed25519PublicKey) -> Statement:
    """What an envelope says, if one of its signatures is of that key; it is parsed only then.

    Raises:
        SignatureError: none is, or what was signed is no statement.
    """
    from cryptography.exceptions import InvalidSignature

    signed = pae(PAYLOAD_TYPE, envelope.payload)
    for signature in envelope.signatures:
        try:
            public_key.verify(signature.value, signed)
        except InvalidSignature:
            continue  # of another key, for other verifiers
        return envelope.statement
    named = ", ".join(reprlib.repr(each.key_id) for each in envelope.signatures) or "none"
    raise SignatureError(
        f"the statement is not signed by the trusted key {key_id(public_key)} (keys named: {named}): "
        "promote with that key, or trust the right one"
    )


def stamp(time: datetime) -> str:
    """2026-11-21T14:00:00Z."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _time(what: str, text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except (ValueError, TypeError) as error:
        raise SignatureError(
            f"the statement's {what} is {reprlib.repr(text)}, wanted a time like 2026-11-21T14:00:00Z"
        ) from error


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise SignatureError(f"the {what} is not JSON ({error}): it was damaged, or this is no server of edge-qprompt") from error
    if not isinstance(found, dict):
        raise SignatureError(f"the {what} is {reprlib.repr(found)}, wanted a JSON object")
    return found


def _key_id(signature: dict[str, Any]) -> str:
    """DSSE: a key id that is not set is an empty one."""
    found = signature.get("keyid") or ""
    if not isinstance(found, str):
        raise SignatureError(f"a key id is {reprlib.repr(found)}, wanted text")
    return found


def _bytes(facts: dict[str, Any], what: str) -> bytes:
    """Base64, standard or URL-safe: DSSE's verifiers must take either."""
    text = facts.get(what)
    try:
        if not isinstance(text, str):
            raise ValueError("no text")
        return base64.b64decode(text.translate(URL_SAFE), validate=True)
    except ValueError as error:
        raise SignatureError(f"the envelope's {what} is {reprlib.repr(text)}, wanted base64") from error


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
