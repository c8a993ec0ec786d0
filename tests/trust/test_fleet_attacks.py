"""What is answered instead of a channel's statement and pack: the device keeps what it has.

The attacks are those that python-tuf is tested against. After each, the pack that was there before is
still there, byte for byte, with what was accepted about it and nothing beside them.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from fleet import CHANNEL, DAY, KEY, OTHER_KEY, Device, Fleet, Misbehaviour, about, fails

from edge_qprompt import Pack
from edge_qprompt.pack.pack import names_section
from edge_qprompt.trust.statement import Statement, sign


def envelope(said: Statement, key: Any = KEY, **changes: Any) -> Misbehaviour:
    """Answer with a statement, some fields of whose envelope were changed."""
    facts = json.loads(sign(said, key).encode()) | changes
    return lambda handler: handler.json(facts)


def signed_and_changed(said: Statement, **changes: Any) -> Misbehaviour:
    return envelope(said, payload=json.loads(sign(dataclasses.replace(said, **changes), KEY).encode())["payload"])


def test_arbitrary_install(fleet: Fleet, device: Device, first: Pack, second: Pack) -> None:
    before = device.files()
    new = about(second, 6, version=2)
    fleet.offer(second, new)
    fleet.instead[CHANNEL] = envelope(new, OTHER_KEY)
    fails(device.pull(), "not signed by the trusted key 21fe31dfa154a261", f"{device.pack} stays as it was")
    fleet.instead[CHANNEL] = envelope(new, signatures=[])
    fails(device.pull(), "not signed by the trusted key")
    claimed = [{"keyid": "21fe31dfa154a261", "sig": json.loads(sign(new, OTHER_KEY).encode())["signatures"][0]["sig"]}]
    fleet.instead[CHANNEL] = envelope(new, signatures=claimed)
    fails(device.pull(), "not signed by the trusted key")
    fleet.instead[CHANNEL] = signed_and_changed(about(first, 6), pack_id=second.pack_id)
    fails(device.pull(), "not signed by the trusted key")
    fleet.instead[CHANNEL] = envelope(new, payloadType="application/json")
    fails(device.pull(), "the envelope holds 'application/json'")
    assert device.files() == before


def test_arbitrary_bytes_of_a_pack(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    fleet.offer(second, about(second, 6))
    whole = second.encode()
    for data in (whole[:-1] + b"\0", bytes(len(whole)), whole[:-1], b""):
        fleet.instead[f"/v1/packs/{second.pack_id}"] = lambda handler, data=data: handler.send(200, "application/x", data)  # type: ignore[misc]
        fails(device.pull(), "exchanged", f"{device.pack} stays as it was")
        assert device.files() == before


def test_rollback(fleet: Fleet, device: Device, first: Pack, second: Pack) -> None:
    old = fleet.channels["flowers", "stable"]
    fleet.offer(second, about(second, 6, version=2))
    assert device.pull().code == 0
    before = device.files()
    fleet.channels["flowers", "stable"] = old  # the replay of a statement that was good
    fails(device.pull(), "has serial 5, 6 was accepted here before: somebody offers an old state")
    fleet.offer(first, about(first, 6))
    fails(device.pull(), "two statements of serial 6")
    assert device.files() == before


def test_freeze(fleet: Fleet, device: Device, first: Pack) -> None:
    before = device.files()
    past = about(first).issued - 91 * DAY
    fleet.offer(first, about(first, 6, issued=past, expires=past + 90 * DAY))
    fails(device.pull(), "the statement expired ", "or somebody keeps newer statements back")
    assert device.files() == before


def test_freeze_by_a_clock_that_was_set_back(fleet: Fleet, device: Device, first: Pack) -> None:
    kept = device.folder / "flowers.qpk.channel.json"
    later = about(first).issued + DAY
    kept.write_bytes(sign(about(first, 5, issued=later, expires=later + DAY), KEY).encode())
    before = device.files()
    fleet.offer(first, about(first, 6))
    fails(device.pull(), "this device's clock says ", "set the clock here")
    assert device.files() == before


def test_mix_and_match(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    for changes, said in (({"task": "birds"}, "about birds stable"), ({"channel": "beta"}, "about flowers beta")):
        fleet.instead[CHANNEL] = envelope(about(second, 6, **changes))
        fails(device.pull(), f"{said}, wanted flowers stable: the server mixes its answers up")
    fleet.instead.clear()
    new = about(second, 6)
    other = dataclasses.replace(second, sections=(names_section(("hen", "rat")),))
    assert other.size == second.size
    fleet.offer(second, new)
    fleet.instead[f"/v1/packs/{second.pack_id}"] = lambda handler: handler.send(200, "application/x", other.encode())
    fails(device.pull(), f"has SHA-256 {other.pack_id}, the statement says {second.pack_id}")
    assert device.files() == before


def test_wrong_software(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    foreign = dataclasses.replace(second, fingerprint=bytes(8))
    fleet.offer(foreign, about(foreign, 6))
    fails(device.pull(), "learned on backbone 0000000000000000", f"this device has {second.fingerprint.hex()}", "--backbone")
    fleet.offer(foreign, about(foreign, 6, backbone=second.fingerprint.hex()))
    fails(device.pull(), "learned on backbone 0000000000000000", f"its statement says {second.fingerprint.hex()}")
    assert device.files() == before


def test_one_file_is_one_channel(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    fleet.offer(second, about(second, 9, task="birds"))
    fails(device.pull(task="birds"), "accepted here before is flowers stable, now wanted birds stable: give each its own --out")
    fleet.offer(second, about(second, 9, channel="beta"))
    fails(device.pull("--channel", "beta"), "accepted here before is flowers stable, now wanted flowers beta")
    assert device.files() == before


def test_what_was_accepted_is_not_forgotten_because_it_is_damaged(fleet: Fleet, device: Device, second: Pack) -> None:
    (device.folder / "flowers.qpk.channel.json").write_bytes(b"")
    before = device.files()
    fleet.offer(second, about(second, 1))
    fails(device.pull(), "flowers.qpk.channel.json: the envelope is not JSON", "remove it to start anew, which forgets")
    assert device.files() == before
