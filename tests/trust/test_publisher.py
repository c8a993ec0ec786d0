"""Push and rollback: what a publisher signs, what it does not, and what it says."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from common import DEMO
from fleet import DAY, OTHER_KEY, Device, Fleet, Publisher, about, command, fails, newest, pack_of

from device_agent.client import VERSIONS, Client
from edge_qprompt import Backbone, Pack, State, adapt, teach
from edge_qprompt.errors import ServerError
from edge_qprompt.learn import state_path
from edge_qprompt.pack.pack import names_section
from edge_qprompt.photos import load_dataset
from edge_qprompt.trust.statement import Envelope, sign


def test_push_says_what_it_did_and_nothing_twice(fleet: Fleet, publisher: Publisher, first: Pack, second: Pack) -> None:
    done = publisher.push(first)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == f"flowers version 1  {first.size} bytes, pack {first.pack_id[:16]} on {fleet.url}"
    assert done.out.splitlines()[1].startswith("stable is now version 1, serial 1, signed until 20")
    said = newest(fleet)
    assert (said.version, said.serial, said.pack_id, said.backbone) == (1, 1, first.pack_id, first.fingerprint.hex())
    again = publisher.push(first)
    assert "stable is already, nothing changes: version 1, serial 1" in again.out
    assert newest(fleet) == said
    assert publisher.push(second, "--expires", "7", "--json").json["serial"] == 2
    assert (newest(fleet).version, newest(fleet).expires - newest(fleet).issued) == (2, 7 * DAY)
    assert len(fleet.packs["flowers"]) == 2


def test_push_repeats_what_the_server_warns_of(fleet: Fleet, publisher: Publisher, first: Pack) -> None:
    facts = {"version": 3, "warnings": ["flowers was learned for int8 \x1b[2J", 4]}
    fleet.instead["/v1/tasks/flowers/versions"] = lambda handler: handler.json(facts)
    done = publisher.push(first, "--no-promote")
    assert (done.code, done.err) == (0, "warning: flowers was learned for int8  [2J\nwarning: 4\n")
    assert done.out.startswith("flowers version 3 ")
    fleet.instead["/v1/tasks/flowers/versions"] = lambda handler: handler.json({"version": 3, "warnings": "much"})
    fails(publisher.push(first, "--no-promote"), "no warnings of type list")


@pytest.mark.parametrize(("left", "serial"), [(46, 1), (44, 2)])
def test_push_signs_again_when_half_of_the_time_is_gone(
    fleet: Fleet, publisher: Publisher, first: Pack, left: int, serial: int
) -> None:
    now = about(first).issued
    fleet.offer(first, about(first, 1, issued=now - (90 - left) * DAY, expires=now + left * DAY))
    assert publisher.push(first, "--json").json["serial"] == serial
    assert newest(fleet).serial == serial


@pytest.mark.parametrize("current", [Envelope(b""), None])
def test_push_signs_over_what_its_key_has_not_signed(
    fleet: Fleet, publisher: Publisher, first: Pack, current: Envelope | None
) -> None:
    fleet.offer(first, about(first, 4), OTHER_KEY)
    if current is not None:
        fleet.channels["flowers", "stable"] = Envelope(about(first, 4).encode()).encode()
    assert publisher.push(first, "--json").json["serial"] == 5
    assert newest(fleet).serial == 5


def test_push_to_a_channel_of_its_own_or_to_none(fleet: Fleet, publisher: Publisher, first: Pack) -> None:
    result = publisher.push(first, "--no-promote", "--json").json
    assert result == {"server": fleet.url, "task": "flowers", "pack_id": first.pack_id, "size": first.size, "version": 1}
    assert "no channel was moved" in publisher.push(first, "--no-promote").out
    assert fleet.channels == {}
    assert publisher.push(first, "--channel", "beta").code == 0
    assert list(fleet.channels) == [("flowers", "beta")]


def test_push_gives_way_and_tries_again(fleet: Fleet, publisher: Publisher, first: Pack, second: Pack) -> None:
    def rival() -> None:
        current = fleet.channels.get(("flowers", "stable"))
        fleet.offer(second, about(second, 1 + (newest(fleet).serial if current else 0), version=2))

    fleet.rivals += [rival, rival]
    assert publisher.push(first, "--json").json["serial"] == 3
    assert newest(fleet).pack_id == first.pack_id
    fleet.rivals += [rival] * 9
    fails(publisher.push(second.__class__.decode(first.encode()), "--expires", "3650"), "answers 409", "(tried 5 times")


def test_push_brings_a_report(fleet: Fleet, publisher: Publisher, first: Pack, second: Pack, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text('{"held_out_accuracy": 0.5, "losses": [[1, 2.5]]}')
    assert publisher.push(first, "--report", report).code == 0
    assert publisher.push(second).code == 0
    assert fleet.reports["flowers"] == [{"held_out_accuracy": 0.5, "losses": [[1, 2.5]]}, None]
    for text, said in (
        ("[]", "it is no JSON object"),
        ("{", "Expecting"),
        ('"' + "x" * (256 << 10) + '"', "it is larger than 262144 bytes"),
    ):
        report.write_text(text)
        fails(publisher.push(first, "--report", report), f"--report {report} cannot be used ({said}", "or leave it out")
    fails(publisher.push(first, "--report", tmp_path / "gone"), "gone cannot be used", "No such file")


def test_push_brings_a_state_where_that_is_said(
    fleet: Fleet, publisher: Publisher, nano: Backbone, second: Pack, tmp_path: Path
) -> None:
    learned = teach(nano, adapt(nano, load_dataset(DEMO).select("base")).state, [(DEMO / "test" / "bag" / "3.png", "bag")])
    report = tmp_path / "report.json"
    report.write_text("{}")
    learned.state.save(publisher.folder / "p.qpk")
    assert publisher.push(learned.pack, "--report", report).code == 0
    assert publisher.push(learned.pack, "--state").code == 0
    assert publisher.push(learned.pack, "--state", "--report", report).code == 0
    nothing, sent, again = fleet.states
    assert (nothing, again) == (None, sent)
    assert sent is not None
    state = State.decode(sent)
    assert (state.pack_id, state.history, state.before) == (learned.pack.pack_id, (), "")  # no change before is told
    assert state.known == learned.state.known
    fails(publisher.push(second, "--state"), "p.qpk.state is of another pack than", "which somebody has replaced")
    replace(learned.state, pack_id="0" * 64, before=second.pack_id).save(publisher.folder / "p.qpk")
    fails(publisher.push(second, "--state"), "--state cannot be sent, since", "is of a pack that could not be written")
    state_path(publisher.folder / "p.qpk").unlink()
    fails(publisher.push(second, "--state"), "--state cannot be sent, since", "p.qpk.state is not there", "or push without it")
    assert len(fleet.states) == 3


def test_push_that_cannot_be(fleet: Fleet, publisher: Publisher, first: Pack) -> None:
    done = publisher.push(first, "--token", "eqp_other")
    fails(done, f"{fleet.url} answers 401 Trouble: this needs a token with another scope")
    assert "eqp_other" not in done.err
    fails(publisher.push(first, "--key", publisher.folder / "gone"), "cannot read the key")
    fails(publisher.push(first, "--key", publisher.key.with_name("fleet.pub")), "is not an Ed25519 private key")
    (publisher.folder / "p.qpk").write_bytes(b"PK")
    bad = command("push", publisher.folder / "p.qpk", "--task", "flowers", "--key", publisher.key, *publisher.where)
    fails(bad, "p.qpk: not a pack")
    assert fleet.packs == {}
    usage = command("push", publisher.folder / "p.qpk", "--task", "flowers", *publisher.where)
    assert (usage.code, "--key is needed to sign" in usage.err) == (2, True)


def test_rollback_and_forward(fleet: Fleet, publisher: Publisher, empty: Device, first: Pack, second: Pack) -> None:
    for pack in (first, second):
        assert publisher.push(pack).code == 0
    assert empty.pull().code == 0
    back = publisher.rollback("--json").json
    assert (back["version"], back["serial"], back["changed"], back["pack_id"]) == (1, 3, True, first.pack_id)
    assert empty.pull("--json").json["version"] == 1
    assert empty.pack.read_bytes() == first.encode()
    fails(publisher.rollback(), "stable of flowers is version 1, and there is none before it: choose with --to from 1, 2")
    assert publisher.rollback("--to", "2", "--json").json["serial"] == 4
    assert empty.pull("--json").json["version"] == 2
    assert "already, nothing changes" in publisher.rollback("--to", "2").out
    fails(publisher.rollback("--to", "3"), "flowers has no version 3 on", "it has 1, 2")
    fails(publisher.rollback("--channel", "beta"), "channel beta of flowers points nowhere yet")


def many(backbone: Backbone, number: int) -> list[Pack]:
    return [pack_of(backbone, f"cat {i}", "dog") for i in range(number)]


def asked(fleet: Fleet) -> list[str]:
    """Pages of versions that were asked for since the last look."""
    paths = [path.partition("?")[2] for _, path, _ in fleet.seen if path.startswith("/v1/tasks/flowers?")]
    fleet.seen.clear()
    return paths


def test_versions_come_in_pages(fleet: Fleet, nano: Backbone) -> None:
    packs = many(nano, 2 * VERSIONS + 5)
    fleet.packs["flowers"] = [pack.encode() for pack in packs]
    expected = [(number, packs[number - 1].pack_id) for number in range(len(packs), 0, -1)]
    with Client(fleet.url) as client:
        assert list(client.versions("flowers")) == expected
        assert len(asked(fleet)) == 3
        assert next(client.versions("flowers")) == expected[0]
        assert asked(fleet) == [f"limit={VERSIONS}"]  # no page before it is needed
        assert list(client.versions("flowers", VERSIONS + 3)) == expected[-VERSIONS - 2 :]
        assert asked(fleet) == [f"limit={VERSIONS}&before={VERSIONS + 3}", f"limit={VERSIONS}&before=3"]
        assert list(client.versions("flowers", 1)) == []


def test_rollback_to_a_version_beyond_the_first_page(fleet: Fleet, publisher: Publisher, nano: Backbone) -> None:
    packs = many(nano, VERSIONS + 4)
    assert publisher.push(packs[0]).code == 0
    assert publisher.push(packs[1]).code == 0
    fleet.packs["flowers"] += [pack.encode() for pack in packs[2:]]  # by others, whose packs this key has not signed
    asked(fleet)
    back = publisher.rollback("--json").json  # from version 2
    assert (back["version"], back["pack_id"]) == (1, packs[0].pack_id)
    assert publisher.rollback("--to", "2", "--json").json["pack_id"] == packs[1].pack_id
    assert asked(fleet) == [f"limit={VERSIONS}&before=2", f"limit={VERSIONS}&before=3"]
    fails(publisher.rollback("--to", "3"), "does not show that this key has signed version 3")
    some = ", ".join(map(str, range(5, VERSIONS + 5)))
    fails(publisher.rollback("--to", "99"), "flowers has no version 99 on", f"it has {some}\n")
    assert publisher.rollback("--to", str(1 << 31)).code == 2


def test_rollback_on_a_server_that_knows_no_pages(fleet: Fleet, publisher: Publisher, nano: Backbone) -> None:
    packs = many(nano, 3)
    for pack in packs:
        assert publisher.push(pack).code == 0
    rows = [{"version": i, "pack": pack.pack_id} for i, pack in enumerate(packs, 1)][::-1]
    fleet.instead["/v1/tasks/flowers"] = lambda handler: handler.json({"name": "flowers", "versions": rows, "channels": {}})
    assert publisher.rollback("--json").json["version"] == 2
    assert publisher.rollback("--to", "1", "--json").json["pack_id"] == packs[0].pack_id
    fails(publisher.rollback("--to", "4"), "flowers has no version 4 on", "it has 1, 2, 3")


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ({"versions": {}}, "no versions of type list"),
        ({"versions": [{"version": "2", "pack": "ab"}]}, "no version of type int"),
        ({"versions": [{"version": 2, "pack": 5}]}, "no pack of type str"),
        ({"versions": [], "next": "5"}, "no next of type int"),
        ({"versions": [], "next": 9}, "lists versions in circles, 9 after 9"),
    ],
)
def test_versions_that_are_none(fleet: Fleet, page: Any, said: str) -> None:
    fleet.instead["/v1/tasks/flowers"] = lambda handler: handler.json(page)
    with Client(fleet.url) as client, pytest.raises(ServerError, match=said):
        list(client.versions("flowers"))


def test_an_endless_list_of_versions_ends(fleet: Fleet) -> None:
    fleet.instead["/v1/tasks/flowers"] = lambda handler: handler.json({"versions": [], "next": 10**6 - len(fleet.seen)})
    with Client(fleet.url) as client, pytest.raises(ServerError, match="versions of flowers on more than 100 pages"):
        list(client.versions("flowers"))
    assert len(fleet.seen) == 100


def test_rollback_signs_nothing_on_a_servers_word(fleet: Fleet, publisher: Publisher, first: Pack, second: Pack) -> None:
    """A server that has been taken over names its own pack as the version before."""
    for pack in (first, second):
        assert publisher.push(pack).code == 0
    before = dict(fleet.channels)
    evil = dataclasses.replace(first, sections=(names_section(("evil", "pack")),))
    fleet.packs["flowers"][0] = evil.encode()
    fails(
        publisher.rollback(),
        f"does not show that this key has signed version 1 of flowers, pack '{evil.pack_id}'",
        "push it again",
    )
    log = publisher.key.with_name("fleet.log")
    with log.open("ab") as file:  # nor on that of who can only write to the log
        file.write(b"damage\n" + sign(about(evil), OTHER_KEY).encode() + b"\n" + Envelope(about(evil).encode()).encode() + b"\n")
    fails(publisher.rollback(), "does not show that this key has signed version 1")
    assert fleet.channels == before
    log.unlink()
    fails(publisher.rollback("--to", "2"), "does not show")
