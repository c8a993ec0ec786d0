"""Fixtures of the HTTP API's tests: packs, and a server with tasks in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from apis import Api, make_pack, start

from edge_qprompt import Backbone
from edge_qprompt.pack.pack import Pack


@pytest.fixture(scope="module")
def width() -> int:
    return Backbone.open("nano").manifest.text.width


@pytest.fixture(scope="module")
def packs(width: int) -> list[Pack]:
    return [make_pack(width, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, packs: list[Pack]) -> Iterator[Api]:
    for running in start(tmp_path_factory.mktemp("store")):
        running.publish("one", packs[0])
        running.publish("two", packs[1])
        yield running


@pytest.fixture
def private(tmp_path: Path, packs: list[Pack]) -> Iterator[Api]:
    """A server that shows nothing to those without a token."""
    for running in start(tmp_path / "store", anonymous_read=False, anonymous_classify=False):
        running.publish("one", packs[0])
        yield running
