"""The channel statement: golden bytes, round trips, and a sentence for every way it can be wrong."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from fleet import KEY, NOW, OTHER_KEY, statement
from hypothesis import given
from hypothesis import strategies as st

from edge_qprompt.errors import SignatureError
from edge_qprompt.pack.layout import MAX_BYTES
from edge_qprompt.trust import statement as module
from edge_qprompt.trust.statement import (
    MAX_ENVELOPE_BYTES,
    MAX_NUMBER,
    PAYLOAD_TYPE,
    Envelope,
    Signature,
    Statement,
    key_id,
    new_key_pair,
    pae,
    public_path,
    read_private_key,
    read_public_key,
    sign,
    verify,
    write_key_pair,
)

GOLDEN = (
    b'{"backbone":"0123456789abcdef","channel":"stable","expires":"2027-02-19T14:00:00Z","issued":"2026-11-21T14:00:00Z",'
    b'"pack_id":"abababababababababababababababababababababababababababababababab","serial":3,"size":296,"task":"flowers",'
    b'"version":2}'
)
# `openssl pkeyutl -sign -rawin` over pae(PAYLOAD_TYPE, GOLDEN) with the first key of RFC 8032, section 7.1
GOLDEN_SIGNATURE = "Usd9QnLatRLIvuYUIUDdoY5643K0otoGIYl6U+5/ubjMiEI8xOCFajthqbfmfpMv7i3fRoLyj9x6ei5z6XgTAA=="


# golden bytes


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("http://example.com/HelloWorld", b"hello world", b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"),
        (
            "application/vnd.ex\xe4mple+json",
            b"{}",
            b"DSSEv1 29 application/vnd.ex\xc3\xa4mple+json 2 {}",
        ),  # bytes, not characters
        ("a", b"", b"DSSEv1 1 a 0 "),
    ],
)
def test_pae_is_that_of_dsse(kind: str, body: bytes, expected: bytes) -> None:
    assert pae(kind, body) == expected


def test_statement_and_envelope_are_these_bytes() -> None:
    envelope = sign(statement(), KEY)
    assert statement().encode() == GOLDEN
    assert json.loads(envelope.encode()) == {
        "payload": base64.b64encode(GOLDEN).decode(),
        "payloadType": "application/vnd.edge-qprompt.channel+json",
        "signatures": [{"keyid": "21fe31dfa154a261", "sig": GOLDEN_SIGNATURE}],
    }
    assert len(envelope.encode()) < 600
    assert verify(envelope, KEY.public_key()) == statement()


def test_the_longest_envelope_is_far_below_the_limit() -> None:
    long = statement(task="t" * 64, channel="c" * 64, serial=MAX_NUMBER, version=MAX_NUMBER, size=MAX_BYTES)
    one = sign(long, KEY)
    assert len(dataclasses.replace(one, signatures=one.signatures * 8).encode()) < MAX_ENVELOPE_BYTES / 4


# round trips

NAMES = st.from_regex(module.NAME, fullmatch=True)
NUMBERS = st.integers(1, MAX_NUMBER)
TIMES = st.datetimes(datetime(1, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC)).map(
    lambda time: time.replace(microsecond=0)
)


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    issued = draw(TIMES)
    return Statement(
        draw(NAMES),
        draw(NAMES),
        draw(NUMBERS),
        draw(NUMBERS),
        draw(st.binary(min_size=32, max_size=32)).hex(),
        draw(st.integers(1, MAX_BYTES)),
        draw(st.binary(min_size=8, max_size=8)).hex(),
        issued,
        issued + timedelta(seconds=draw(st.integers(1, 10**7))),
    )


@given(statements())
def test_a_statement_comes_back(given_statement: Statement) -> None:
    assert Statement.decode(given_statement.encode()) == given_statement
    envelope = sign(given_statement, KEY)
    assert Envelope.decode(envelope.encode()) == envelope
    assert verify(Envelope.decode(envelope.encode()), KEY.public_key()) == given_statement


@given(st.binary(max_size=300), st.lists(st.builds(Signature, st.text(max_size=20), st.binary(max_size=80)), max_size=8))
def test_an_envelope_comes_back(payload: bytes, signatures: list[Signature]) -> None:
    envelope = Envelope(payload, tuple(signatures))
    assert Envelope.decode(envelope.encode()) == envelope


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
)


def believed(parse: Callable[[bytes], object], data: bytes) -> bool:
    """Whether it is parsed; anything but a SignatureError fails the test."""
    try:
        parse(data)
    except SignatureError:
        return False
    return True


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_signature_error(data: bytes) -> None:
    assert not believed(Statement.decode, data)
    assert not believed(Envelope.decode, data)


@given(st.sampled_from(sorted(json.loads(GOLDEN))), JSON)
def test_any_value_in_a_field_is_checked(field: str, value: object) -> None:
    data = json.dumps(json.loads(GOLDEN) | {field: value}, sort_keys=True, separators=(",", ":")).encode()
    assert not believed(Statement.decode, data) or Statement.decode(data).encode() == data


@given(st.integers(0, len(GOLDEN) - 1), st.integers(1, 255))
def test_no_byte_of_what_was_signed_may_change(place: int, flip: int) -> None:
    payload = bytearray(GOLDEN)
    payload[place] ^= flip
    with pytest.raises(SignatureError, match="not signed by the trusted key"):
        verify(dataclasses.replace(sign(statement(), KEY), payload=bytes(payload)), KEY.public_key())


# damages


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "Flowers"}, "task is 'Flowers', it must be"),
        ({"task": "../etc"}, "task is '../etc'"),
        ({"task": "a\n"}, r"task is 'a\\n'"),
        ({"task": "t" * 65}, "task is 't"),
        ({"channel": ""}, "channel is ''"),
        ({"serial": 0}, "serial is 0, it must be 1 to"),
        ({"serial": 2**53}, "serial is 9007199254740992"),
        ({"version": True}, "version is True"),
        ({"version": 1.0}, "version is 1.0"),
        ({"size": MAX_BYTES + 1}, f"size is {MAX_BYTES + 1}, it must be 1 to {MAX_BYTES}"),
        ({"pack_id": "AB" * 32}, "pack_id is 'AB"),
        ({"backbone": "0123"}, "backbone is '0123'"),
        ({"issued": datetime(2026, 11, 21)}, "issued is .* whole seconds of UTC"),
        ({"issued": NOW.replace(microsecond=1)}, "whole seconds of UTC"),
        ({"issued": NOW.astimezone(timezone(timedelta(hours=1)))}, "whole seconds of UTC"),
        ({"expires": NOW}, "expires 2026-11-21T14:00:00Z, before it was issued"),
    ],
)
def test_a_statement_checks_itself(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SignatureError, match=said):
        statement(**changes)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"serial":3', b'"serial":3,"extra":1', "has the fields .*extra.*upgrade"),
        (b',"version":2', b"", "has the fields"),
        (b'"serial":3', b'"serial": 3', "canonical"),
        (b'"serial":3', b'"serial":3,"serial":3', "canonical"),
        (b'"task":"flowers","version":2', b'"version":2,"task":"flowers"', "canonical"),
        (b"flowers", b"\\u0066lowers", "canonical"),
        (b"2026-11-21T14:00:00Z", b"2026-11-21T14:00:00+00:00", "canonical"),
        (b"2026-11-21T14:00:00Z", b"20261121T140000Z", "canonical"),
        (b"2026-11-21T14:00:00Z", b"2026-11-21T14:00:00", "whole seconds of UTC"),
        (b"2026-11-21T14:00:00Z", b"today", "issued is 'today', wanted a time"),
        (b'"2026-11-21T14:00:00Z"', b"5", "issued is 5, wanted a time"),
        (b'"serial":3', b'"serial":1e999', "serial is inf"),
        (b'"serial":3', b'"serial":' + b"9" * 5000, "is not JSON"),
        (b'"serial":3', b'"serial":' + b"[" * 5000, "is not JSON"),
        (b"flowers", b"\xff", "is not JSON"),
        (b"{", b"[{", "is not JSON"),
    ],
)
def test_a_damaged_statement_says_so(old: bytes, new: bytes, said: str) -> None:
    assert old in GOLDEN
    with pytest.raises(SignatureError, match=said):
        Statement.decode(GOLDEN.replace(old, new, 1))


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(sign(statement(), KEY).encode()) | fields).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "envelope is not JSON"),
        (b"<html>", "envelope is not JSON.*no server of edge-qprompt"),
        (b"[" * 8000, "envelope is not JSON"),
        (b"[]", r"envelope is \[\], wanted a JSON object"),
        (b" " * (MAX_ENVELOPE_BYTES + 1), "larger than 8192 bytes"),
        (changed(payloadType="application/json"), "holds 'application/json', wanted application/vnd"),
        (changed(payloadType=None), "holds None"),
        (changed(payload="?"), r"payload is '\?', wanted base64"),
        (changed(payload=None), "payload is None, wanted base64"),
        (changed(signatures=None), "signatures are None, wanted a list"),
        (changed(signatures=["x"]), r"signatures are \['x'\]"),
        (changed(signatures=[{"keyid": "a"}]), "sig is None"),
        (changed(signatures=[{"keyid": 5, "sig": ""}]), "key id is 5"),
        (changed(signatures=[{"sig": ""}] * 9), "has 9 signatures, at most 8"),
    ],
)
def test_a_damaged_envelope_says_so(data: bytes, said: str) -> None:
    with pytest.raises(SignatureError, match=said):
        Envelope.decode(data)


def test_what_is_too_large_cannot_be_made() -> None:
    with pytest.raises(SignatureError, match="at most 8192"):
        Envelope(bytes(MAX_ENVELOPE_BYTES))


def test_dsse_parsing_rules() -> None:
    facts = json.loads(sign(statement(), KEY).encode()) | {"later": "ignored"}
    (signature,) = facts["signatures"]
    del signature["keyid"]
    signature |= {"sig": signature["sig"].replace("+", "-").replace("/", "_"), "cert": "ignored"}
    assert {"-", "_"} & set(signature["sig"])
    envelope = Envelope.decode(json.dumps(facts).encode())
    assert envelope.signatures[0].key_id == ""
    assert verify(envelope, KEY.public_key()) == statement()


# signatures


def test_any_of_several_signatures_will_do_and_key_ids_prove_nothing() -> None:
    own, other = sign(statement(), KEY).signatures[0], sign(statement(), OTHER_KEY).signatures[0]
    several = Envelope(GOLDEN, (Signature("short", b"1"), other, dataclasses.replace(own, key_id="nonsense")))
    assert verify(several, KEY.public_key()) == verify(several, OTHER_KEY.public_key()) == statement()
    claimed = Envelope(GOLDEN, (dataclasses.replace(other, key_id=own.key_id),))
    with pytest.raises(SignatureError, match=f"not signed by the trusted key {own.key_id} .keys named: '{own.key_id}'"):
        verify(claimed, KEY.public_key())


@pytest.mark.parametrize(
    "message",
    [
        GOLDEN,  # without PAE
        pae("application/json", GOLDEN),
        pae("backwards-compatible-json", GOLDEN),
        pae(PAYLOAD_TYPE.upper(), GOLDEN),
    ],
)
def test_a_signature_over_another_type_does_not_count(message: bytes) -> None:
    envelope = Envelope(GOLDEN, (Signature("", KEY.sign(message)),))
    with pytest.raises(SignatureError, match="not signed by the trusted key"):
        verify(envelope, KEY.public_key())


def test_unsigned_is_not_signed() -> None:
    with pytest.raises(SignatureError, match="keys named: none"):
        verify(Envelope(GOLDEN), KEY.public_key())


def test_signed_nonsense_is_still_nonsense() -> None:
    envelope = Envelope(b"{}", (Signature("", KEY.sign(pae(PAYLOAD_TYPE, b"{}"))),))
    with pytest.raises(SignatureError, match="has the fields"):
        verify(envelope, KEY.public_key())


# keys


def test_keys_come_back_and_openssl_reads_them(tmp_path: Path) -> None:
    private_key, public_key = new_key_pair()
    path = tmp_path / "fleet"
    write_key_pair(path, private_key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_private_key(path).private_bytes_raw() == private_key.private_bytes_raw()
    assert key_id(read_public_key(public_path(path))) == key_id(public_key)
    openssl = ("openssl", "pkey", "-in", str(path), "-pubout")
    assert subprocess.run(openssl, capture_output=True, check=True, timeout=60).stdout == (tmp_path / "fleet.pub").read_bytes()
    assert new_key_pair()[0].private_bytes_raw() != private_key.private_bytes_raw()


@pytest.mark.parametrize("there", ["fleet", "fleet.pub"])
def test_keys_are_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(SignatureError, match=f"{there} is there already and a key is never overwritten"):
        write_key_pair(tmp_path / "fleet", KEY)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def pem(key: Any, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))


def test_other_files_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for data in (b"", b"nonsense", pem(generate_private_key(SECP256R1())), pem(KEY, b"secret")):
        path.write_bytes(data)
        with pytest.raises(SignatureError, match="key is not an Ed25519 private key in PEM, without a password"):
            read_private_key(path)
    for data in (b"", pem(KEY)):
        path.write_bytes(data)
        with pytest.raises(SignatureError, match=r"key is not an Ed25519 public key in PEM: give the KEY.pub"):
            read_public_key(path)
    with pytest.raises(SignatureError, match=r"cannot read the key .*gone .No such file.*keygen"):
        read_private_key(tmp_path / "gone")
