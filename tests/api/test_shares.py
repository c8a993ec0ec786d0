"""Shares and turns: what one client holds is not at the cost of others."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from fastapi import Request

from edge_qprompt.backbone.fair_lock import FairLock
from server.client import client_of, network
from server.problem import HTTPProblem
from server.shares import Shares
from server.tokens import Holder
from server.turns import Turns

NOBODY = Holder("anonymous", frozenset())


def test_a_share_is_bounded_for_each_and_for_all() -> None:
    shares = Shares("photos", total=5, each=3, retry_seconds=2)
    shares.take("a", 3)
    with pytest.raises(HTTPProblem) as mine:
        shares.take("a", 1)
    shares.take("b", 2)
    with pytest.raises(HTTPProblem) as everyone:
        shares.take("c", 1)
    assert (mine.value.status_code, everyone.value.status_code) == (429, 503)
    assert mine.value.headers["Retry-After"] == everyone.value.headers["Retry-After"] == "2"
    shares.give("a", 3)
    shares.give("b", 2)
    assert shares.used == 0
    assert not shares._held  # nothing is remembered of clients that hold nothing
    with pytest.raises(RuntimeError), shares.hold("a", 3):
        raise RuntimeError
    assert shares.used == 0


def test_turns_go_to_whoever_has_fewest() -> None:
    order: list[str] = []

    async def ask(turns: Turns, client: str, name: str) -> None:
        async with turns.hold(client):
            order.append(name)
            await asyncio.sleep(0)

    async def test() -> None:
        turns = Turns(2)
        await turns.take("many")
        await turns.take("many")
        asked = [("many", "m1"), ("many", "m2"), ("few", "f1"), ("other", "o1")]
        tasks = [asyncio.create_task(ask(turns, *each)) for each in asked]
        await asyncio.sleep(0)
        assert turns.waiting == 4
        turns.give("many")
        await asyncio.gather(*tasks)
        turns.give("many")

    asyncio.run(test())
    assert order[:2] == ["f1", "o1"]
    assert order[2:] == ["m1", "m2"]


def test_a_client_waits_for_itself_where_it_has_its_share() -> None:
    async def test() -> None:
        turns = Turns(3, each=1)
        await turns.take("a")
        mine = asyncio.create_task(turns.take("a"))
        await asyncio.sleep(0)
        assert not mine.done()
        await asyncio.wait_for(turns.take("b"), 1)
        turns.give("a")
        await asyncio.wait_for(mine, 1)

    asyncio.run(test())


@pytest.mark.parametrize("given", [False, True])
def test_whoever_stops_waiting_takes_no_place_away(given: bool) -> None:
    async def test() -> None:
        turns = Turns(1)
        await turns.take("a")
        waiting = asyncio.create_task(turns.take("b"))
        await asyncio.sleep(0)
        if given:
            turns.give("a")  # b has it now, but does not know yet
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if not given:
            turns.give("a")
        await asyncio.wait_for(turns.take("c"), 1)

    asyncio.run(test())


def test_a_place_is_not_given_to_who_leaves_in_the_same_moment() -> None:
    async def test() -> None:
        turns = Turns(1)
        await turns.take("a")
        leaving, waiting = (asyncio.create_task(turns.take(name)) for name in "bc")
        await asyncio.sleep(0)
        leaving.cancel()  # it stands in the line until it hears of that
        turns.give("a")
        await asyncio.wait_for(waiting, 1)
        assert leaving.cancelled()
        turns.give("c")
        await asyncio.wait_for(turns.take("d"), 1)

    asyncio.run(test())


def test_a_fair_lock_gives_everyone_a_turn() -> None:
    lock, order = FairLock(), []

    def work(name: str, turns: int) -> None:
        for _ in range(turns):
            with lock:
                order.append(name)
                time.sleep(0.01)

    threads = [threading.Thread(target=work, args=each) for each in (("long", 20), ("short", 2))]
    threads[0].start()
    time.sleep(0.05)
    threads[1].start()
    for thread in threads:
        thread.join(10)
    first, last = order.index("short"), len(order) - 1 - order[::-1].index("short")
    assert last - first <= 3  # one of the other's in between
    assert len(order) == 22


def test_a_closed_lock_lets_nobody_in() -> None:
    lock = FairLock()
    with lock:
        lock.close()
    with pytest.raises(RuntimeError, match="closed"), lock:
        pass
    with pytest.raises(RuntimeError, match="closed"), lock:  # and goes on saying so
        pass


@pytest.mark.parametrize(
    ("address", "known_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_addresses_of_one_network_are_one_client(address: str, known_as: str) -> None:
    assert network(address) == known_as


def test_a_token_is_a_client_wherever_it_comes_from() -> None:
    def request(address: str, *headers: tuple[bytes, bytes]) -> Request:
        return Request({"type": "http", "headers": list(headers), "client": (address, 1)})

    holder = Holder("camera", frozenset(["classify"]))
    token = (b"authorization", b"Bearer x")
    assert client_of(request("192.0.2.7", token), holder) == client_of(request("192.0.2.8", token), holder)
    assert client_of(request("192.0.2.7"), NOBODY) != client_of(request("192.0.2.8"), NOBODY)
    assert client_of(request("camera"), NOBODY) != client_of(request("192.0.2.7", token), holder)
