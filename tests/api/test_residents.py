"""What a server keeps in memory of its packs: bounded, brought back when it is asked for, and nobody waits for another's."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from apis import NAMES, PHOTO, make_pack, start

from edge_qprompt import Backbone
from edge_qprompt.pack.pack import Pack
from server.lru import Lru
from server.residents import THREADS, Key
from server.settings import Limits


def test_residents_are_bounded_in_bytes_and_forgotten_ones_come_back(tmp_path: Path, packs: list[Pack], nano: Backbone) -> None:
    one = len(NAMES) * (nano.manifest.embed_dim * 4 + 64)
    for api in start(tmp_path, limits=Limits(residents_bytes=2 * one)):
        for i, pack in enumerate(packs):
            api.publish(f"t{i}", pack)
        answers = [api.call("POST", f"/v1/classify?task=t{i}", content=PHOTO).json() for i in (0, 1, 2, 0)]
        assert answers[0] == answers[3]
        shown = api.call("GET", "/v1/residents").json()
        assert [row["pack"] for row in shown["residents"]] == [packs[0].pack_id, packs[2].pack_id]
        assert shown["bytes"] == 2 * one


def test_lru() -> None:
    lru: Lru[str, int] = Lru(10)
    lru.put("a", 1, 4)
    lru.put("b", 2, 4)
    assert lru.get("a") == 1
    lru.put("c", 3, 4)
    assert (lru.get("b"), lru.get("a"), lru.get("c"), lru.size) == (None, 1, 3, 8)
    lru.put("a", 5, 1)
    lru.put("huge", 0, 11)
    assert (lru.get("a"), lru.get("huge"), lru.size, len(lru)) == (5, None, 5, 2)


def test_a_pack_that_is_not_ready_yet_holds_up_nobody_else(tmp_path: Path, packs: list[Pack]) -> None:
    for api in start(tmp_path):
        api.publish("quick", packs[0])
        residents = api.client.app.state.server.residents
        gate = threading.Event()
        busy = [residents._threads.submit(gate.wait, 30) for _ in range(THREADS)]  # with something long
        api.call("POST", "/v1/classify?task=quick", content=PHOTO)
        with ThreadPoolExecutor(1) as pool:
            fresh = pool.submit(api.call, "POST", "/v1/classify?task=quick&labels=new", content=PHOTO)
            end = time.monotonic() + 10
            while Key(packs[0].pack_id, ("new",)) not in residents._coming and time.monotonic() < end:
                time.sleep(0.01)
            assert api.call("POST", "/v1/classify?task=quick", content=PHOTO).status_code == 200
            assert not fresh.done()
            gate.set()
            assert fresh.result(30).status_code == 200
            assert all(each.result(30) for each in busy)


def test_a_pack_of_absurdly_many_names_is_refused_at_once(tmp_path: Path, width: int) -> None:
    """60,000 names took 40 seconds and 2 GB."""
    many = (tuple(f"n{i}" for i in range(60_000)), tuple(f"{i} {'x ' * 30}" for i in range(2000)))
    for api in start(tmp_path):
        for names in many:
            began = time.monotonic()
            got = api.call("POST", "/v1/tasks/many/versions", "publish", content=make_pack(width, names=names).encode())
            assert (got.status_code, "at most 5000 names and 100000 characters" in got.json()["detail"]) == (422, True)
            assert time.monotonic() - began < 5


def test_a_large_pack_takes_turns_with_a_new_label(tmp_path: Path, packs: list[Pack], width: int) -> None:
    large = make_pack(width, names=tuple(f"name {i}" for i in range(4500)))
    for api in start(tmp_path):
        api.publish("quick", packs[0])
        api.call("POST", "/v1/classify?task=quick", content=PHOTO)
        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            publishing = pool.submit(api.call, "POST", "/v1/tasks/large/versions", "publish", content=large.encode())
            residents, waits = api.client.app.state.server.residents, []
            while not residents._coming and not publishing.done():
                time.sleep(0.005)
            while not publishing.done():
                asked = time.monotonic()
                got = api.call("POST", f"/v1/classify?task=quick&labels=new{len(waits)}", content=PHOTO)
                assert got.status_code == 200
                waits.append(time.monotonic() - asked)
            assert publishing.result().status_code == 201
            whole = time.monotonic() - began
        assert len(waits) > 3
        assert sorted(waits)[len(waits) // 2] < whole / 3  # each would have to wait for all of it
