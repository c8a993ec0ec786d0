"""Fixtures of a fleet of one: a server that misbehaves when it is told to, keys, packs, a device and a publisher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import KEY, Device, Fleet, Publisher, about, pack_of

from edge_qprompt import Backbone, Pack
from edge_qprompt.trust.statement import write_key_pair


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet() as running:
        yield running


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    path = tmp_path / "keys" / "fleet"
    write_key_pair(path, KEY)
    return path


@pytest.fixture
def empty(fleet: Fleet, key: Path, tmp_path: Path) -> Device:
    (tmp_path / "device").mkdir()
    return Device(tmp_path / "device", key.with_name("fleet.pub"), fleet.url)


@pytest.fixture
def first(nano: Backbone) -> Pack:
    return pack_of(nano, "cat", "dog")


@pytest.fixture
def second(nano: Backbone) -> Pack:
    return pack_of(nano, "fox", "owl")  # as many bytes as the first


@pytest.fixture
def device(fleet: Fleet, empty: Device, first: Pack) -> Device:
    """A device that has accepted serial 5."""
    fleet.offer(first, about(first, 5))
    assert empty.pull().code == 0
    fleet.seen.clear()
    return empty


@pytest.fixture
def publisher(fleet: Fleet, key: Path, tmp_path: Path) -> Publisher:
    return Publisher(tmp_path, key, fleet.url)
