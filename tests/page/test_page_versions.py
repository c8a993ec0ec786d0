"""The page of a task with more versions than one answer holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from packs import qcoop, quantized
from pages import NARROWEST, OpenPage, api, assert_no_sideways, until
from servers import LiveServer

from edge_qprompt import Backbone
from edge_qprompt.pack.pack import names_section
from server.catalogue import Catalogue
from server.database import Database

if TYPE_CHECKING:
    from playwright.sync_api import Page

VERSIONS = 120
PAGE = 50
STABLE = 60  # on the second page


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, nano: Backbone) -> Iterator[str]:
    """A server whose task `many` has VERSIONS versions, each with a class of its own."""
    folder = tmp_path_factory.mktemp("versions")
    catalogue = Catalogue(Database(str(folder / "store")))
    for number in range(1, VERSIONS + 1):
        pack = qcoop(quantized(1, (2, 256), number), sections=(names_section((f"class of {number}", "other")),))
        pack = replace(pack, fingerprint=nano.manifest.short_fingerprint)
        catalogue.publish("many", pack, {"held_out_accuracy": number / 1000}, "workshop")
    catalogue.promote("many", "stable", STABLE, None, "workshop")
    catalogue.database.close()
    server = LiveServer.start(folder / "store", folder)
    yield server.url
    server.stop()


def listed(page: Page) -> list[int]:
    return [int(text.removeprefix("Version ")) for text in page.locator(".versions tbody a").all_inner_texts()]


def more(page: Page) -> None:
    """Press the button, and wait for what it brings."""
    before = len(listed(page))
    page.get_by_role("button", name="Show older versions").click()
    until(page, lambda: len(listed(page)) > before)


def test_older_versions_come_when_they_are_asked_for(open_page: OpenPage, url: str) -> None:
    page = open_page(f"{url}/#/tasks/many", viewport=NARROWEST)
    page.wait_for_selector(".strip")
    assert listed(page) == list(range(VERSIONS, VERSIONS - PAGE, -1))
    more(page)
    assert listed(page) == list(range(VERSIONS, VERSIONS - 2 * PAGE, -1))
    assert page.evaluate("document.activeElement.textContent") == f"Version {VERSIONS - PAGE}"
    assert_no_sideways(page)
    assert page.locator(".versions a[aria-current=true]").all_inner_texts() == [f"Version {STABLE}"]
    more(page)
    assert listed(page) == list(range(VERSIONS, 0, -1))
    assert page.get_by_role("button", name="Show older versions").count() == 0


def test_what_is_stable_is_shown_though_it_is_on_another_page(open_page: OpenPage, url: str) -> None:
    page = open_page(f"{url}/#/tasks/many")
    page.wait_for_selector(".strip")
    (stable,) = api(url, f"v1/tasks/many?limit=1&before={STABLE + 1}")["versions"]
    assert page.locator(".names li").all_inner_texts() == stable["class_names"] == [f"class of {STABLE}", "other"]
    assert re.fullmatch(rf"{STABLE}\s*stable", page.locator(".stats dd").first.inner_text())
    back = page.locator(".command").filter(has_text="Roll every device back").locator("code")
    assert back.inner_text() == f"edge-qprompt rollback many --server {url} --key KEY"  # to the one before, which it finds itself


@pytest.mark.parametrize("number", [1, PAGE, STABLE, VERSIONS - PAGE, VERSIONS - PAGE + 1, VERSIONS])
def test_every_version_has_its_page(open_page: OpenPage, url: str, number: int) -> None:
    page = open_page(f"{url}/#/tasks/many/{number}")
    page.wait_for_selector(".strip")
    assert page.locator(".names li").first.inner_text() == f"class of {number}"
    page.goto(f"{url}/#/tasks/many/{VERSIONS + 1}")
    page.get_by_text(f"There is no version {VERSIONS + 1} of this task.").wait_for()


def test_a_page_that_does_not_come_is_told_and_asked_for_again(open_page: OpenPage, url: str) -> None:
    page = open_page(f"{url}/#/tasks/many")
    page.wait_for_selector(".strip")
    page.route("**/v1/tasks/many?*before=*", lambda route: route.abort())
    page.get_by_role("button", name="Show older versions").click()
    page.get_by_role("alert").get_by_text("No older versions came").wait_for()
    page.unroute("**/v1/tasks/many?*before=*")
    page.get_by_role("alert").get_by_role("button").click()
    more(page)
    assert len(listed(page)) == 2 * PAGE
