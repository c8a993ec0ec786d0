"""Fixtures of the web page's tests: real servers with tasks in them, and a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from packs import qcoop, quantized
from pages import HOSTILE, WAIT_MS, OpenPage, Sites, show_task
from servers import LiveServer

from edge_qprompt import Backbone
from edge_qprompt.pack.pack import Pack, names_section
from edge_qprompt.trust.statement import Statement, new_key_pair, sign
from server.database import Database
from server.tokens import Tokens

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

NAMES = ("ankle boot", "bag", "coat")
REPORT = {
    "losses": [[epoch, 2.0 / epoch] for epoch in range(1, 41)],
    "held_out_accuracy": 0.8125,
    "zero_shot_accuracy": 0.4375,
    "train_accuracy": 0.9,
    "held_out_images": 48,
    "images_used": 24,
}
LIFETIME = timedelta(days=90)


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory, nano: Backbone) -> Iterator[Sites]:
    folder = tmp_path_factory.mktemp("sites")
    store, other = folder / "store", folder / "other"
    tokens = Tokens(Database(str(store)))
    publisher = tokens.create("workshop", ["publish", "promote"])
    promoter, reader = tokens.create("operator", ["promote"]), tokens.create("reader", ["read", "classify"])
    tokens.database.close()
    locked = ("--no-anonymous-read", "--no-anonymous-classify")
    servers = [LiveServer.start(store, folder), LiveServer.start(other, folder), LiveServer.start(store, folder, *locked)]
    try:
        with httpx.Client(base_url=servers[0].url, headers={"Authorization": f"Bearer {publisher}"}, timeout=60) as client:
            _fill(client, nano.manifest.short_fingerprint)
        full, empty, closed = (server.url for server in servers)
        yield Sites(full, empty, closed, "clothes", "hostile", promoter, reader)
    finally:
        for server in servers:
            server.stop()


def _fill(client: httpx.Client, fingerprint: bytes) -> None:
    reports = ({"held_out_accuracy": 0.75}, REPORT, None)
    for number, (bits, report) in enumerate(zip((1, 2, 4), reports, strict=True), 1):
        pack = replace(qcoop(quantized(bits, (4, 256)), sections=(names_section(NAMES),)), fingerprint=fingerprint)
        _publish(client, "clothes", pack, report)
        if number < 3:
            _promote(client, "clothes", pack, number)
    hostile = replace(qcoop(quantized(1, (2, 256)), sections=(names_section(HOSTILE),)), fingerprint=fingerprint)
    _publish(client, "hostile", hostile, None)
    _promote(client, "hostile", hostile, 1)


def _publish(client: httpx.Client, task: str, pack: Pack, report: dict[str, Any] | None) -> None:
    data = {} if report is None else {"report": json.dumps(report)}
    client.post(f"/v1/tasks/{task}/versions", files={"pack": ("p.qpk", pack.encode())}, data=data).raise_for_status()


def _promote(client: httpx.Client, task: str, pack: Pack, number: int) -> None:
    """Sign that stable is this version; the statement's serial is the same number."""
    now = datetime.now(UTC).replace(microsecond=0)
    facts = (task, "stable", number, number, pack.pack_id, pack.size, pack.fingerprint.hex(), now, now + LIFETIME)
    envelope = json.loads(sign(Statement(*facts), new_key_pair()[0]).encode())
    client.put(f"/v1/tasks/{task}/channels/stable", json={"version": number, "envelope": envelope}).raise_for_status()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ended with each file of tests: while it runs, no other test can run an event loop of its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=path)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages in contexts of their own; at the end none may have complained.

    The console's line about an answer of 4xx or 5xx is the browser's, not the page's; violations of the policy are errors there.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(url: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            page.unroute_all(behavior="ignoreErrors")  # a request on its way must not fail the next test
        context.close()
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def page(open_page: OpenPage, sites: Sites) -> Page:
    """The first page, with its tasks."""
    page = open_page(sites.full)
    page.wait_for_selector("#tasks tbody")
    return page


@pytest.fixture
def task_page(open_page: OpenPage, sites: Sites) -> Page:
    """The page of `sites.task`."""
    return show_task(open_page, sites)
