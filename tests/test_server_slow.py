"""A live server against senders that take their time, and many of them."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import hostile
from hostile import CLOSE, HOST, PHOTO, classify, quoted, request, statuses, talk
from targets import BODY_MB, Target, clothes

from edge_qprompt import Backbone
from server import protocol

pytest_plugins = ("target_fixtures",)

IDLE = 1200  # connections, more than the 1,000 that a server takes


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


def test_more_bodies_than_memory_is_given_to(target: Target) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: %d\r\n\r\n" % (BODY_MB << 20)
    body = [head, bytes((BODY_MB << 20) - 1)]  # one byte short
    with ThreadPoolExecutor(40) as pool:
        found = [statuses(each) for each in pool.map(lambda _: talk(target.server.port, body), range(40))]
    assert {status for each in found for status in each} == {408, 503}
    assert target.send([classify(bytes(3 << 20))]) == [422]  # there is room again


def test_many_idle_connections(target: Target) -> None:
    address = ("127.0.0.1", target.server.port)
    links = [socket.create_connection(address, timeout=30) for _ in range(IDLE)]
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
