"""The page on a photo that shows none of a task's classes, against what the API says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from packs import qcoop, quantized
from pages import FAINT, NARROWEST, OpenPage, assert_no_sideways, classified, classify, percent
from servers import LiveServer
from telling import OWN, STRANGE, telling_pack

from edge_qprompt.pack import DECISION, names_section
from server.database import Database
from server.tokens import Tokens

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a task that can tell what it does not know, and one that cannot."""
    folder = tmp_path_factory.mktemp("unknown")
    tokens = Tokens(Database(str(folder / "store")))
    headers = {"Authorization": f"Bearer {tokens.create('workshop', ['publish', 'promote'])}"}
    tokens.database.close()
    server = LiveServer.start(folder / "store", folder)
    try:
        prompt = qcoop(quantized(1, (4, 256)), sections=(names_section(("cat", "dog")),))
        packs = {"clothes": telling_pack(), "pets": replace(prompt, fingerprint=telling_pack().fingerprint)}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
            for task, pack in packs.items():
                client.post(f"/v1/tasks/{task}/versions", content=pack.encode()).raise_for_status()
                client.put(f"/v1/tasks/{task}/channels/stable", json={"version": 1}).raise_for_status()
        yield server.url
    finally:
        server.stop()


def cards(page: Page, photo: Path) -> tuple[Locator, Locator]:
    """Of clothes and pets, when a photo was answered."""
    classified(page, lambda: page.set_input_files("#choose", photo))
    both = page.locator(".answer")
    both.first.wait_for()
    return both.filter(has=page.get_by_role("link", name="clothes")), both.filter(has=page.get_by_role("link", name="pets"))


def test_a_photo_of_none_of_the_classes_is_shown_as_such(open_page: OpenPage, url: str) -> None:
    page = open_page(url, reduced_motion="reduce")
    clothes, pets = cards(page, STRANGE)
    answer = classify(url, STRANGE).json()["images"][0]["tasks"]
    assert (answer["clothes"]["unknown"], answer["pets"]["unknown"]) == (True, None)
    assert clothes.locator(".unknown").inner_text() == "None of these; nearest:"
    nearest = clothes.get_by_role("list", name="Nearest classes")
    assert nearest.locator(".name").all_inner_texts() == [row["label"] for row in answer["clothes"]["labels"]]
    plain, sure = (card.locator("li").first.evaluate("row => getComputedStyle(row).fontWeight") for card in (clothes, pets))
    assert (plain, sure) == ("400", "600")  # no class stands out as if it were the answer
    assert (pets.locator(".unknown").count(), pets.get_by_role("list", name="Nearest classes").count()) == (0, 0)
    best = answer["clothes"]["labels"][0]
    said = page.get_by_role("status").filter(has_text="answered").text_content() or ""
    assert f"clothes: None of these; nearest: {best['label']}, {percent(best['probability'])}. pets: " in said


def test_a_photo_of_a_class_is_not(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    clothes, _ = cards(page, OWN)
    assert clothes.locator("li").first.locator(".name").inner_text() == "trouser"
    assert clothes.locator(".unknown").count() == 0
    assert "None of these" not in (page.locator("#status").text_content() or "")


def test_an_added_name_ends_the_telling(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    page.fill("#labels", "bag")
    clothes, _ = cards(page, STRANGE)
    assert clothes.locator(".chip").count() == 1
    assert clothes.locator(".unknown").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_small_phone(open_page: OpenPage, url: str, scheme: str) -> None:
    page = open_page(url, color_scheme=scheme, reduced_motion="reduce", viewport=NARROWEST)
    clothes, _ = cards(page, STRANGE)
    assert clothes.locator(".unknown").is_visible()
    assert page.evaluate(FAINT) == []
    assert_no_sideways(page)


def test_a_discriminant_is_shown_with_its_threshold(open_page: OpenPage, url: str) -> None:
    page = open_page(f"{url}/#/tasks/clothes")
    card = page.get_by_role("region", name="What is in the pack")
    card.get_by_text("The discriminant: 5 \u00d7 256 weights").wait_for()
    decision = telling_pack().get(DECISION)
    assert decision
    shown = f"photos of familiarity below {decision.unknown:.3f} show none of the classes".replace("-", "\u2212")
    assert card.get_by_text(shown).is_visible()
    assert page.get_by_role("alert").count() == 0
