"""What the tests of the HTTP API share: packs without any learning, and the app behind a client with tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from common import DEMO
from fastapi.testclient import TestClient

from edge_qprompt import Backbone
from edge_qprompt.codebook import Quantized
from edge_qprompt.learn import METHODS
from edge_qprompt.pack.pack import Pack, PackTensor, Precision, Role, names_section
from server.app import create_app
from server.database import Database
from server.settings import ServerSettings
from server.tokens import Scope, Tokens

PHOTO = (DEMO / "test" / "bag" / "3.png").read_bytes()
OTHER = (DEMO / "test" / "sneaker" / "5.png").read_bytes()
NAMES = ("bag", "sneaker", "coat")


def make_pack(width: int, seed: int = 0, names: tuple[str, ...] = NAMES) -> Pack:
    """A random context with the embedded backbone's fingerprint."""
    rng = np.random.default_rng(seed)
    ctx = Quantized(np.array([-0.02, 0.02]), rng.integers(0, 2, (4, width), np.uint8), 1)
    tensor = PackTensor.quantized(Role.CTX, ctx)
    fingerprint = Backbone.open("nano").manifest.short_fingerprint
    return Pack(fingerprint, METHODS["qcoop"].number, Precision.FP32, (tensor,), (names_section(names),))


class Api:
    """A client, and tokens by scope."""

    def __init__(self, client: TestClient, store: Path) -> None:
        self.client, self.store = client, store
        tokens = Tokens(Database(str(store)))
        self.tokens = {scope: tokens.create(scope, [scope]) for scope in Scope}
        tokens.database.close()

    def call(self, method: str, path: str, scope: str | None = None, **more: Any) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if scope:
            headers["Authorization"] = f"Bearer {self.tokens[Scope(scope)]}"
        return self.client.request(method, path, headers=headers, **more)

    def publish(self, task: str, pack: Pack, stable: bool = True, **more: Any) -> dict[str, Any]:
        done = self.call("POST", f"/v1/tasks/{task}/versions", "publish", content=pack.encode(), **more)
        assert done.status_code in (200, 201), done.text
        if stable:
            moved = self.call("PUT", f"/v1/tasks/{task}/channels/stable", "promote", json={"version": done.json()["version"]})
            assert moved.status_code == 200, moved.text
        return done.json()


def start(store: Path, **settings: Any) -> Iterator[Api]:
    with TestClient(create_app(ServerSettings(str(store), **settings)), raise_server_exceptions=False) as client:
        while client.get("/readyz").status_code != 200:
            pass
        yield Api(client, store)
