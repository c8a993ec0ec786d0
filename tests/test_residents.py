"""What a server keeps in memory of its packs: bounded, brought back when it is asked for, and nobody waits for another's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from apis import NAMES, PHOTO, start

from edge_qprompt import Backbone
from edge_qprompt.pack import Pack
from server.lru import Lru
from server.residents import THREADS, Key
from server.settings import Limits

pytest_plugins = ("api_fixtures",)


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
    import time

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
