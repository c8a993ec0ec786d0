"""Fixtures of the tests that attack a live server."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest
from servers import LiveServer, token
from targets import BODY_MB, CACHE_MB, MEGAPIXELS, OPTIONS, Target, clothes

from edge_qprompt import Backbone
from server.settings import Limits


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, nano: Backbone) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    server = LiveServer.start(folder / "store", folder, *map(str, OPTIONS))
    secret = token(folder / "store", "read", "classify", "publish", "promote")
    start = server.memory_mb()
    limits = Limits()
    most = start + 4 * 67 + 6 * 1.05 * CACHE_MB + 0.4 * limits.connections + 67
    most += 10 * limits.batch * (os.cpu_count() or 1) + 0.15 * limits.pending_images
    decoder = 40 + 67 + 2 * 1.05 * BODY_MB + 20 * MEGAPIXELS
    client = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)
    found = Target(server, secret, most, decoder, client)
    assert found.honest("POST", "/v1/tasks/clothes/versions", content=clothes(nano).encode()).status_code == 201
    assert found.honest("PUT", "/v1/tasks/clothes/channels/stable", json={"version": 1}).status_code == 200
    yield found
    client.close()
    assert server.stop() == 0


@pytest.fixture
def target(attacked: Target) -> Iterator[Target]:
    """The server, which is unharmed after each test."""
    yield attacked
    attacked.check()
