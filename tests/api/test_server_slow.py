"""A live server against senders that take their time, and many of them."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import hostile
from hostile import CLOSE, HOST, PHOTO, classify, quoted, request, statuses, talk
from hostile_photos import jpeg_with, segment
from servers import until
from targets import BODY_MB, Target, clothes

from edge_qprompt import Backbone
from server import protocol

IDLE = 1200  # connections, more than the 1,000 that a server takes
NEIGHBOURS = [f"127.0.0.{number}" for number in range(10, 16)]  # addresses of clients; all of 127/8 is this machine
SLOW = jpeg_with(segment(0xE5, b"") * 950_000)  # a second and more of decoding


def test_endless_and_slow_senders(target: Target) -> None:
    start = b"POST /v1/classify HTTP/1.1\r\n" + HOST + b"Content-Type: "
    chunked, long = b"Transfer-Encoding: chunked\r\n\r\n", b"Content-Length: 100000\r\n\r\n"
    form = b"multipart/form-data; boundary=b\r\n" + chunked
    piece = hostile.part('form-data; name="image"; filename="x"', b"x" * 60_000)
    endless = [
        (start + b"image/png\r\n" + chunked, b"10000\r\n" + b"x" * 65536 + b"\r\n", 500, 0.0),
        (start + b"image/png\r\n" + chunked, b"1\r\nx\r\n" * 1000, 20_000, 0.0),
        (start + form, b"%x\r\n" % len(piece) + piece + b"\r\n", 500, 0.0),
        (b"GET /healthz HTTP/1.1\r\n" + HOST + chunked, b"10000\r\n" + b"x" * 65536 + b"\r\n", 500, 0.0),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST + chunked, b"1\r\nx\r\n" * 1000, 20_000, 0.0),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST + chunked, b"no length\r\n", 3, 0.25),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 65536, 500, 0.0),
    ]
    slow = [
        (start + b"image/png\r\n" + long, b"x", 100, 0.25),
        (start + b"image/png\r\n" + chunked, b"1\r\nx\r\n", 100, 0.25),
        (start + form, b"1\r\n-\r\n", 100, 0.25),
        (b"GET /heal", b"t", 100, 0.25),
        (b"GET /healthz HTTP/1.1\r\n", b"X: y\r\n", 100, 0.25),
        (b"", b"\r\n", 100, 0.25),
        (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n", b"G", 100, 0.25),
    ]
    began = time.monotonic()
    with ThreadPoolExecutor(len(endless + slow)) as pool:

        def run(head: bytes, piece: bytes, most: int, pause: float) -> list[int]:
            return statuses(talk(target.server.port, hostile.endless(head, piece, most), pause=pause))

        found = list(pool.map(lambda case: run(*case), endless + slow))
    assert time.monotonic() - began < 40  # a quarter of a second, a hundred times, would do it within 25 and be answered
    assert {status for each in found for status in each} <= {200, 400, 404, 408, 413, 422}
    assert [408] in found


def test_more_bodies_than_one_client_is_given(target: Target) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: %d\r\n\r\n" % (BODY_MB << 20)
    body = [head, bytes((BODY_MB << 20) - 1)]  # one byte short
    with ThreadPoolExecutor(40) as pool:
        found = [statuses(each) for each in pool.map(lambda _: talk(target.server.port, body), range(40))]
    assert {status for each in found for status in each} == {408, 429}
    assert target.send([classify(bytes(3 << 20))]) == [422]  # there is room again


def test_bodies_that_one_client_holds_are_not_at_the_cost_of_others(target: Target) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: %d\r\n\r\n" % (BODY_MB << 20)
    body = [head, bytes((BODY_MB << 20) - 1)]
    with ThreadPoolExecutor(40) as pool:
        held = [pool.submit(talk, target.server.port, body, source=NEIGHBOURS[0]) for _ in range(40)]
        time.sleep(1)  # all that find room have sent what they send, and wait with the last byte
        for _ in range(3):
            assert target.send([classify(PHOTO.read_bytes())]) == [200]
            assert target.honest("PUT", "/v1/tasks/clothes/channels/slow", json={"version": 1}).status_code == 200
        assert not all(each.done() for each in held)
        assert {status for each in held for status in statuses(each.result())} == {408, 429}


def test_a_client_has_its_share_of_connections(target: Target) -> None:
    address = ("127.0.0.1", target.server.port)
    links = [socket.create_connection(address, 30, (NEIGHBOURS[0], 0)) for _ in range(IDLE)]
    try:
        time.sleep(1)
        assert sum(b"HTTP/1.1 429" in received_now(link) for link in links) == IDLE - 250
        assert target.send([request("GET", "/v1/tasks"), classify(PHOTO.read_bytes())]) == [200, 200]
        received = talk(target.server.port, [request("GET", "/v1/tasks")], source=NEIGHBOURS[0])
        assert b"HTTP/1.1 429" in received
        assert b"Retry-After: 5" in received
        assert b"application/problem+json" in received
    finally:
        for link in links:
            link.close()


def received_now(link: socket.socket) -> bytes:
    """What has come already."""
    link.setblocking(False)
    try:
        return link.recv(4096)
    except BlockingIOError:
        return b""


def test_a_client_that_leaves_gives_its_place_back(target: Target) -> None:
    """It would be decoded for seconds; the place is free as soon as the connection is gone."""
    before = metric(target, 'edge_qprompt_decodes_abandoned_total{reason="left"}')
    with socket.create_connection(("127.0.0.1", target.server.port), 30) as link:
        link.sendall(classify(SLOW))
        until(lambda: metric(target, "edge_qprompt_waiting_photos") == 1)
    until(lambda: metric(target, "edge_qprompt_waiting_photos") == 0, seconds=1.5)
    assert metric(target, 'edge_qprompt_decodes_abandoned_total{reason="left"}') == before + 1
    assert '"status": 499' in target.server.log.read_text()


def metric(target: Target, name: str) -> float:
    lines = target.honest("GET", "/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), 0.0)


def test_many_idle_connections(target: Target) -> None:
    address = ("127.0.0.1", target.server.port)
    links = [socket.create_connection(address, 30, (NEIGHBOURS[i % len(NEIGHBOURS)], 0)) for i in range(IDLE)]
    try:
        for link in links[::3]:
            link.sendall(b"GET /")
        received = talk(target.server.port, [request("GET", "/v1/tasks")])
        assert statuses(received) == [503]
        assert b"retry-after: " in received and b"application/problem+json" in received
        time.sleep(protocol.HEAD_SECONDS + 1)
        assert target.send([request("GET", "/v1/tasks")]) == [200]
        assert all(not link.recv(1) for link in links)  # hung up on
    finally:
        for link in links:
            link.close()


def test_names_added_to_many_tasks_are_bounded(target: Target, nano: Backbone) -> None:
    names = ",".join(f"label {i}" for i in range(60))
    for i in range(70):
        path = f"/v1/tasks/many{i}"
        assert target.honest("POST", path + "/versions", content=clothes(nano, f"many {i} {{}}.").encode()).status_code == 201
        assert target.honest("PUT", path + "/channels/stable", json={"version": 1}).status_code == 200
    assert target.send([classify(PHOTO.read_bytes(), query=f"?labels={quoted(names)}")]) == [422]  # 60 x 70 names or more
    assert target.send([classify(PHOTO.read_bytes())]) == [200]
