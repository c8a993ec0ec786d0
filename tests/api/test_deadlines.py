"""The server's protocol against who does not take an answer: what a live server would take too long to show."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Response
from hostile import request
from servers import free_port

from server import protocol

MB = 10**6


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a small server with the real protocol, and short deadlines."""
    monkeypatch.setattr(protocol, "TAKE_SECONDS", 2.0)
    monkeypatch.setattr(protocol, "MAX_UNSENT_BYTES", 40 * MB)
    app = FastAPI()

    @app.get("/large")
    def large() -> Response:
        return Response(bytes(20 * MB))

    config = uvicorn.Config(app, port=free_port(), http=protocol.DeadlineProtocol, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield config.port
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def large(port: int) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", port), timeout=10)
    link.sendall(request("GET", "/large"))
    return link


def taken(link: socket.socket, pause: float = 0.0) -> int:
    """Bytes until the end."""
    count = 0
    try:
        while part := link.recv(1 << 20):
            count += len(part)
            time.sleep(pause)
    except ConnectionError:
        pass
    return count


def test_who_does_not_take_an_answer_is_hung_up_on(quick: int) -> None:
    with large(quick) as idle, large(quick) as steady:
        assert taken(steady, pause=0.2) > 20 * MB  # slower than the deadline, but it takes something all the time
        assert 0 < taken(idle) < 20 * MB


def test_untaken_answers_are_bounded_together(quick: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "TAKE_SECONDS", 60)
    links = []
    for _ in range(6):
        links.append(large(quick))
        time.sleep(0.2)
    counts = [taken(link) for link in reversed(links)]
    assert counts[0] > 20 * MB  # the last
    assert counts[-1] < 20 * MB  # the first
    assert sum(count > 20 * MB for count in counts) == 2
    for link in links:
        link.close()
