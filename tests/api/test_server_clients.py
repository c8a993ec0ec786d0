"""Live servers of their own: whose word for a client's address is believed, and a stop in the middle of hostile photos."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from common import DEMO
from hostile_load import descendants
from hostile_photos import KINDS, jpeg_with, segment
from serve_load import prepare
from servers import LiveServer, alive

from edge_qprompt import Backbone

PHOTO = (DEMO / "test" / "bag" / "3.png").read_bytes()
SLOW = jpeg_with(segment(0xE5, b"") * 3_000_000)  # seconds of decoding


def ask(server: LiveServer, photo: bytes, forwarded_for: str = "192.0.2.1") -> int:
    """Status of the answer."""
    headers = {"X-Forwarded-For": forwarded_for}
    return httpx.post(server.url + "/v1/classify", content=photo, headers=headers, timeout=60).status_code


def waiting(server: LiveServer) -> bool:
    return "edge_qprompt_waiting_photos 1.0" in httpx.get(server.url + "/metrics").text


@pytest.mark.parametrize(
    ("options", "other"), [((), 429), (("--trusted-proxy", "127.0.0.1"), 200), (("--trusted-proxy", "192.0.2.9"), 429)]
)
def test_only_a_trusted_proxy_says_who_a_client_is(tmp_path: Path, nano: Backbone, options: tuple[str, ...], other: int) -> None:
    prepare(tmp_path / "store", nano)
    server = LiveServer.start(tmp_path / "store", tmp_path, "--queue", "2", *options)  # one place a client
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, server, SLOW)
            end = time.monotonic() + 20
            while not waiting(server) and not first.done():
                assert time.monotonic() < end
            assert ask(server, PHOTO, "192.0.2.2") == other
            first.result()
    finally:
        server.stop()


def test_a_stop_waits_for_no_hostile_photo(tmp_path: Path, nano: Backbone) -> None:
    prepare(tmp_path / "store", nano)
    server = LiveServer.start(tmp_path / "store", tmp_path)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask_in_vain, server, KINDS["million_texts.png"]()) for _ in range(6)]
        time.sleep(1.5)
        processes = descendants(server.process.pid)
        assert len(processes) > 2
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0
        assert time.monotonic() - began < 25  # 10 where nobody else computes
        for each in asked:
            each.result()
    assert not [pid for pid in processes if alive(pid)]
    assert "Traceback" not in server.log.read_text()


def ask_in_vain(server: LiveServer, photo: bytes) -> None:
    with suppress(httpx.TransportError):  # it may be cut off
        ask(server, photo)
