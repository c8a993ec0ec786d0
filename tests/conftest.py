"""What all tests have: private caches, the embedded backbone, small folders of photos, the real command, marks.

Each folder of tests is a room of its own; what rooms share lies in `helpers`, fixtures included.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from common import CACHE, SHARED, Command, Learned, MakePhotos, make_photos, run_command
from threadpoolctl import threadpool_limits

from edge_qprompt import Backbone

# The files that take longest, in order: `make test` hands out whole files in two processes, and what is long must not come last.
LONGEST = (
    "test_real_size.py",
    "test_server_durable.py",
    "test_tower.py",
    "test_bench.py",
    "test_learn.py",
    "test_vit_mini.py",
    "test_page_task.py",
    "test_exporter.py",
    "test_page.py",
    "test_store_failures.py",
    "test_server_hostile.py",
    "test_commands.py",
    "test_image_methods.py",
    "test_openapi.py",
    "test_server_slow.py",
    "test_decoder.py",
    "test_serve_command.py",
)

SLOW = (  # those that `make quick` leaves out as well
    "test_bad_disk.py",
    "test_bench_numbers.py",
    "test_ci.py",
    "test_decoder_pool.py",
    "test_encoder_changes.py",
    "test_encoder_packs.py",
    "test_end_to_end.py",
    "test_exporter_int8.py",
    "test_exporter_prompted.py",
    "test_heads.py",
    "test_nano.py",
    "test_operations.py",
    "test_origins.py",
    "test_p4q.py",
    "test_privacy.py",
    "test_quantize.py",
    "test_quantized_graph.py",
    "test_residual.py",
    "test_server_clients.py",
    "test_sources.py",
    "test_step.py",
    "test_vision.py",
    "test_wheel.py",
)

# a fifth of a second an example is too little beside busy processes; each test has pytest's limit
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks by what a test needs; the longest files first, each whole and in its own order, the rest as they were."""
    places = {name: place for place, name in enumerate(LONGEST)}
    for item in items:
        needs = set(getattr(item, "fixturenames", ()))
        if item.path.name in (*LONGEST, *SLOW):
            item.add_marker("slow")
        if "browser" in needs:
            item.add_marker("browser")
        if "engine" in needs or "[postgresql" in item.name:
            item.add_marker("postgres")
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's own cache and backbones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        patch.setenv("EDGE_QPROMPT_BACKBONES", str(tmp_path_factory.mktemp("backbones")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Spinning threads on a busy machine are slower than one, those of torch and those of BLAS: docs/adr/0005-threads.md."""
    torch.set_num_threads(1)
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="session")
def nano() -> Backbone:
    return Backbone.open("nano")


@pytest.fixture
def photos(tmp_path: Path) -> MakePhotos:
    return lambda *classes, **more: make_photos(tmp_path, *classes, **more)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the shared data sets are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def edge_qprompt_command() -> Command:
    return run_command


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Three classes of four photos each; too little to be good, enough to be real."""
    base = tmp_path_factory.mktemp("learned")
    root = make_photos(base, "bag", "ankle_boot", "t-shirt")
    command = ("adapt", str(root), "--epochs", "3", "--shots", "3", "--json")
    done = run_command(*command, "--out", base / "clothes.qpk")
    assert done.code == 0, done.err
    return Learned(base / "clothes.qpk", root, command, done)
