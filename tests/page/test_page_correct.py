"""The page corrects what it has just answered: "no, this is a ..."."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from common import DEMO
from pages import FAINT, NARROWEST, OpenPage, api, assert_no_sideways, classified, classify
from servers import LiveServer
from telling import telling_pack

from edge_qprompt import Backbone, adapt
from edge_qprompt.photos import load_dataset
from server.database import Database
from server.tokens import Tokens

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

BAG = DEMO / "test" / "bag" / "3.png"  # no class of the task
OPEN = "No, this is a \u2026"


@dataclass(frozen=True)
class Workshop:
    """A server with the task clothes, which can be taught, and fixed, which cannot; and tokens for it."""

    url: str
    publisher: str
    promoter: str
    other: str


@pytest.fixture
def workshop(tmp_path: Path, nano: Backbone) -> Iterator[Workshop]:
    tokens = Tokens(Database(str(tmp_path / "store")))
    secrets = [
        tokens.create("workshop", ["publish"]),
        tokens.create("operator", ["promote"]),
        tokens.create("gardener", ["publish"], tasks=["flowers"]),
    ]
    tokens.database.close()
    server = LiveServer.start(tmp_path / "store", tmp_path)
    made = Workshop(server.url, *secrets)
    try:
        learned = adapt(nano, load_dataset(DEMO).select("base"))
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for task, pack, state in (("clothes", learned.pack, learned.state.encode()), ("fixed", telling_pack(), None)):
                files = {"pack": ("p", pack.encode())} | ({"state": ("s", state)} if state else {})
                publish, promote = ({"Authorization": f"Bearer {secret}"} for secret in secrets[:2])
                client.post(f"/v1/tasks/{task}/versions", files=files, headers=publish).raise_for_status()
                client.put(f"/v1/tasks/{task}/channels/stable", json={"version": 1}, headers=promote).raise_for_status()
        yield made
    finally:
        server.stop()


def answer(page: Page, task: str = "clothes") -> Locator:
    """The card of a task, when BAG was answered."""
    classified(page, lambda: page.set_input_files("#choose", BAG))
    card = page.locator(".answer").filter(has=page.get_by_role("link", name=task, exact=True))
    card.wait_for()
    return card


def correct(card: Locator, label: str) -> None:
    """Say that it is something else."""
    card.get_by_role("button", name=OPEN).click()
    field = card.get_by_label("This is a", exact=True)
    field.wait_for()
    field.fill(label)
    card.get_by_role("button", name="Teach").click()


def give(page: Page, token: str) -> None:
    """A token, where the dialog asks for one."""
    page.get_by_label("Token").fill(token)
    page.locator("#token-submit").click()


def test_a_photo_is_corrected_and_known_from_then_on(open_page: OpenPage, workshop: Workshop) -> None:
    page = open_page(workshop.url)
    card = answer(page)
    correct(card, "hand bag")
    give(page, workshop.publisher)
    notice = card.get_by_role("status").filter(has_text="Version 2 of clothes knows it now.")
    notice.wait_for()
    assert notice.evaluate("node => node === document.activeElement")
    found = api(workshop.url, "v1/tasks/clothes")
    expected = found["versions"][0]["report"]["expected_accuracy"]
    assert f"Expected on new photos: {100 * expected:.1f}" in notice.inner_text()
    assert "hand bag" in found["versions"][0]["class_names"]
    assert found["channels"]["stable"]["version"] == 1
    notice.get_by_role("button", name="Make version 2 stable").click()
    give(page, workshop.promoter)
    card.get_by_text("Version 2 is stable on this server now.").wait_for()
    first = classify(workshop.url, BAG).json()["images"][0]["tasks"]["clothes"]
    assert (first["version"], first["labels"][0]["label"]) == (2, "hand bag")
    again = answer(page)
    assert again.locator("li .label").first.inner_text() == "hand bag"


def test_a_second_photo_needs_no_second_token(open_page: OpenPage, workshop: Workshop) -> None:
    page = open_page(workshop.url)
    card = answer(page)
    card.get_by_role("button", name=OPEN).click()
    card.get_by_role("button", name="It is none of these").click()
    give(page, workshop.publisher)
    card.get_by_text("was taught that it is none of these.").wait_for()
    assert card.get_by_text("still looks like one of the classes").is_visible()  # so the pack is the one that it was
    assert [each["version"] for each in api(workshop.url, "v1/tasks/clothes")["versions"]] == [1]
    card = answer(page)
    correct(card, "coat")
    card.get_by_text("Version 2 of").wait_for()
    assert [each["version"] for each in api(workshop.url, "v1/tasks/clothes")["versions"]] == [2, 1]
    page.get_by_role("link", name="Look at version 2").click()
    page.get_by_role("heading", name="How it was learned").wait_for()
    assert page.get_by_text("on new photos, by those left out in turn").is_visible()


def test_suggestions_are_the_classes_of_the_task(open_page: OpenPage, workshop: Workshop) -> None:
    page = open_page(workshop.url)
    card = answer(page)
    card.get_by_role("button", name=OPEN).click()
    field = card.get_by_label("This is a", exact=True)
    field.wait_for()
    assert field.evaluate("node => node === document.activeElement")
    names = card.locator("datalist option").evaluate_all("all => all.map(each => each.value)")
    assert names == api(workshop.url, "v1/tasks/clothes")["versions"][0]["class_names"]
    assert field.evaluate("node => node.list.options.length") == len(names)
    card.get_by_role("button", name="Teach").click()  # without a name
    assert field.evaluate("node => node.validity.valueMissing")
    card.get_by_role("button", name="Cancel").click()
    assert card.get_by_role("button", name=OPEN).evaluate("node => node === document.activeElement")
    assert len(api(workshop.url, "v1/tasks/clothes")["versions"]) == 1


def test_errors_are_said_in_words(open_page: OpenPage, workshop: Workshop) -> None:
    page = open_page(workshop.url)
    fixed = answer(page, "fixed")
    fixed.get_by_role("button", name=OPEN).click()
    fixed.get_by_text("This server does not know what fixed was learned from.").wait_for()
    card = answer(page)
    correct(card, "---")
    give(page, workshop.other)
    page.get_by_text("this token is for the tasks flowers").wait_for()
    give(page, workshop.publisher)
    card.get_by_role("alert").get_by_text("has no letter").wait_for()
    assert card.get_by_label("This is a", exact=True).is_enabled()
    assert len(api(workshop.url, "v1/tasks/clothes")["versions"]) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_used_on_a_small_phone(open_page: OpenPage, workshop: Workshop, scheme: str) -> None:
    page = open_page(workshop.url, color_scheme=scheme, reduced_motion="reduce", viewport=NARROWEST)
    card = answer(page)
    card.get_by_role("button", name=OPEN).click()
    card.get_by_label("This is a", exact=True).wait_for()
    assert page.evaluate(FAINT) == []
    assert_no_sideways(page)
    card.get_by_label("This is a", exact=True).fill("x" * 100)
    card.get_by_role("button", name="Teach").click()
    give(page, workshop.publisher)
    card.get_by_role("alert").get_by_text("too long").wait_for()
    assert page.evaluate(FAINT) == []
    assert_no_sideways(page)
    card.get_by_label("This is a", exact=True).fill("hand bag")
    card.get_by_role("button", name="Teach").click()  # the token is known now
    card.get_by_text("Version 2 of").wait_for()
    assert page.evaluate(FAINT) == []
    assert_no_sideways(page)
