"""What a device believes: each question of `update`, asked of something that fails only that one."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

import pytest
from fleet import DAY, KEY, NOW, OTHER_KEY, statement
from packs import FINGERPRINT, SMALL

from edge_qprompt.errors import FingerprintError, PackError, SignatureError
from edge_qprompt.trust.statement import Envelope, Statement, sign
from edge_qprompt.trust.update import CLOCK_SKEW, accept, check_pack

SECOND = timedelta(seconds=1)
LAST = statement(serial=3)


def decide(given: Statement | bytes, last: Statement | None = None, now: datetime = NOW + DAY, **asked: str) -> Statement:
    data = given if isinstance(given, bytes) else sign(given, KEY).encode()
    return accept(data, KEY.public_key(), **{"task": "flowers", "channel": "stable", **asked}, last=last, now=now)


@pytest.mark.parametrize(
    ("given", "last"),
    [
        (LAST, None),
        (LAST, LAST),  # nothing new
        (statement(serial=4), LAST),
        (statement(serial=900), LAST),
        (statement(serial=4, version=1), LAST),  # back a version is not back in time
        (statement(serial=4, issued=NOW - DAY), LAST),  # the signer's clock may be behind
    ],
)
def test_what_is_accepted(given: Statement, last: Statement | None) -> None:
    assert decide(given, last) == given


@pytest.mark.parametrize(
    ("given", "last", "said"),
    [
        (sign(LAST, OTHER_KEY).encode(), None, "not signed by the trusted key 21fe31dfa154a261"),
        (Envelope(LAST.encode()).encode(), None, "not signed by the trusted key .*named: none"),
        (b"<html>", None, "envelope is not JSON"),
        (statement(task="birds"), None, "about birds stable, wanted flowers stable: the server mixes"),
        (statement(channel="beta"), None, "about flowers beta, wanted flowers stable"),
        (statement(serial=2), LAST, "has serial 2, 3 was accepted here before: somebody offers an old state"),
        (statement(version=9), LAST, "two statements of serial 3"),
        (LAST, statement(task="birds", serial=1), "accepted here before is birds stable, now wanted flowers stable"),
        (LAST, statement(channel="beta", serial=1), "accepted here before is flowers beta"),
    ],
)
def test_what_is_refused(given: Statement | bytes, last: Statement | None, said: str) -> None:
    with pytest.raises(SignatureError, match=said):
        decide(given, last)


def test_it_expires_at_its_second() -> None:
    assert decide(LAST, LAST, LAST.expires - SECOND) == LAST
    for now in (LAST.expires, LAST.expires + DAY):
        with pytest.raises(SignatureError, match=r"expired 2027-02-19T14:00:00Z: .*`edge-qprompt push` does"):
            decide(LAST, LAST, now)


def test_a_clock_before_what_was_signed_is_wrong() -> None:
    later = statement(serial=4, issued=NOW - DAY)
    assert decide(LAST, None, NOW - CLOCK_SKEW) == LAST
    for given, last in ((LAST, None), (later, LAST)):
        with pytest.raises(
            SignatureError, match="clock says 2026-11-21T13:54:59Z, but a statement was signed 2026-11-21T14:00:00Z"
        ):
            decide(given, last, NOW - CLOCK_SKEW - SECOND)


PACK = SMALL.encode()
SAID = statement(pack_id=SMALL.pack_id, size=SMALL.size, backbone=FINGERPRINT.hex())


def test_the_pack_that_was_signed_is_taken() -> None:
    assert check_pack(PACK, SAID, FINGERPRINT) == SMALL


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        (PACK[:-1], {}, f"pack is {len(PACK) - 1} bytes, the statement says {len(PACK)}: it was cut short"),
        (PACK + b"\0", {}, f"pack is {len(PACK) + 1} bytes"),
        (b"", {}, "pack is 0 bytes"),
        (PACK[:-1] + b"\0", {}, f"has SHA-256 [0-9a-f]{{64}}, the statement says {SMALL.pack_id}"),
        (PACK, {"pack_id": "ab" * 32}, f"has SHA-256 {SMALL.pack_id}"),
        (b"x", {"pack_id": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "size": 1}, "pack"),
    ],
)
def test_other_bytes_are_refused(data: bytes, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PackError, match=said):
        check_pack(data, dataclasses.replace(SAID, **changes), FINGERPRINT)


@pytest.mark.parametrize(("says", "has"), [("f" * 16, FINGERPRINT), (FINGERPRINT.hex(), bytes(8)), ("0" * 16, bytes(8))])
def test_another_backbone_is_refused(says: str, has: bytes) -> None:
    with pytest.raises(
        FingerprintError, match=f"backbone {FINGERPRINT.hex()}, its statement says {says}, this device has {has.hex()}"
    ):
        check_pack(PACK, dataclasses.replace(SAID, backbone=says), has)
