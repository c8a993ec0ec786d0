"""The page for everyone: the keyboard alone, a small phone, little contrast, no motion, a screen reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pages import FAINT, NARROWEST, PHOTO, OpenPage, Sites, assert_no_sideways, classified

if TYPE_CHECKING:
    from playwright.sync_api import FileChooser, Page

PRESSES = 10
CHOOSER_MS = 1000

# What has the focus, and whether a person can see it.
FOCUS = """(() => {
  const at = document.activeElement, marked = at.type === "file" ? at.nextElementSibling : at;
  const style = getComputedStyle(marked), box = marked.getBoundingClientRect();
  const seen = style.outlineStyle === "solid" && parseFloat(style.outlineWidth) >= 2 && box.width > 1;
  const name = at.labels?.[0]?.textContent ?? at.getAttribute("aria-label") ?? at.textContent;
  return { name: name.trim(), seen: at === document.body || seen };
})()"""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on `name`; wherever it stops on the way, it can be seen."""
    for _ in range(40):
        page.keyboard.press("Tab")
        got = page.evaluate(FOCUS)
        assert got["seen"], got
        if got["name"] == name:
            return
    pytest.fail(f"Tab never came to {name!r}")


def test_everything_is_done_with_the_keyboard(page: Page, sites: Sites) -> None:
    tab_to(page, "Skip to the content")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    tab_to(page, "Choose a photo")
    for count, key in enumerate(("Space", "Enter"), 1):
        for _ in range(PRESSES):  # a browser that still closes one chooser opens no other
            page.keyboard.press(key)
            page.wait_for_timeout(CHOOSER_MS)
            if len(choosers) >= count:
                break
        assert len(choosers) >= count, f"{key} opens no file chooser"
    classified(page, lambda: choosers[-1].set_files(PHOTO))
    page.wait_for_selector(".answer")
    tab_to(page, "Also consider")
    page.keyboard.type("sock")
    classified(page, lambda: page.keyboard.press("Enter"))
    tab_to(page, sites.task)
    page.keyboard.press("Enter")
    page.wait_for_selector(".strip")
    assert page.evaluate("document.activeElement.tagName + document.activeElement.textContent") == f"H1{sites.task}"
    tab_to(page, "Make version 1 stable")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "token"
    page.keyboard.press("Escape")
    assert page.evaluate(FOCUS)["name"] == "Make version 1 stable"
    page.go_back()
    page.wait_for_selector("#home:not([hidden]) .answer")  # the photo and its answers are still there


def test_landmarks_and_names(page: Page) -> None:
    for role in ("banner", "main", "contentinfo", "navigation"):
        assert page.locator(f"body >> role={role}").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    nameless = page.locator("button, a, input").evaluate_all(
        """all => all.filter(e => e.checkVisibility()
          && !(e.textContent.trim() || e.labels?.length || e.getAttribute("aria-label"))).map(e => e.outerHTML)"""
    )
    assert nameless == []


def test_a_small_phone(open_page: OpenPage, sites: Sites) -> None:
    page = open_page(sites.full, viewport=NARROWEST, has_touch=True, is_mobile=True)
    page.wait_for_selector("#tasks tbody")
    assert page.get_by_text("Take a photo").is_visible()
    assert page.locator("#camera").get_attribute("capture") == "environment"
    assert_no_sideways(page)
    classified(page, lambda: page.set_input_files("#camera", PHOTO))
    page.wait_for_selector(".answer")
    assert 0 <= page.locator("#status").evaluate("status => status.getBoundingClientRect().top") < NARROWEST["height"] / 2
    assert_no_sideways(page)
    page.locator(".answer").get_by_role("link", name=sites.task).tap()
    page.wait_for_selector(".strip")
    page.get_by_text("As a table").tap()
    assert_no_sideways(page)
    page.get_by_role("button", name="Make version 1 stable").tap()
    assert_no_sideways(page)
    small = page.locator("button:visible, .button:visible, dialog input").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect()).filter(box => box.height < 36 || box.width < 36).length"
    )
    assert small == 0
    page.goto(sites.empty)
    page.wait_for_selector(".steps")
    assert_no_sideways(page)


def test_a_table_stays_one_when_it_is_drawn_as_cards(open_page: OpenPage, sites: Sites) -> None:
    page = open_page(sites.full, viewport=NARROWEST)
    table = page.get_by_role("table", name="Tasks of this server")
    table.wait_for()
    assert table.get_by_role("row").count() == 1 + 2
    assert table.get_by_role("columnheader").count() == 6
    assert table.get_by_role("rowheader").all_inner_texts() == [sites.task, sites.hostile]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_both_schemes(open_page: OpenPage, sites: Sites, scheme: str) -> None:
    page = open_page(sites.full, color_scheme=scheme, reduced_motion="reduce")
    page.wait_for_selector("#tasks tbody")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 128) == (scheme == "dark")
    page.set_input_files("#choose", PHOTO)
    page.fill("#labels", "sock")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer .chip")
    assert page.evaluate(FAINT) == []
    page.route("**/v1/classify*", lambda route: route.abort())
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_selector(".problem-title")
    assert page.evaluate(FAINT) == []
    page.locator("#tasks").get_by_role("link", name=sites.task).click()
    page.wait_for_selector(".strip")
    page.wait_for_selector(".state")
    assert page.evaluate(FAINT) == []
    page.get_by_role("button", name="Make version 1 stable").click()
    page.get_by_role("textbox", name="Token").fill("two words")
    page.keyboard.press("Enter")
    assert page.evaluate(FAINT) == []
    page.goto(sites.empty)
    page.wait_for_selector(".steps")
    assert page.evaluate(FAINT) == []


def test_reduced_motion_moves_nothing(open_page: OpenPage, sites: Sites) -> None:
    page = open_page(sites.full, reduced_motion="reduce")
    page.evaluate(
        """window.moved = 0;
        for (const kind of ["animationstart", "transitionrun"]) addEventListener(kind, () => { moved += 1; }, true);"""
    )
    page.set_input_files("#choose", PHOTO)
    page.wait_for_selector(".answer")
    assert page.evaluate("[document.getAnimations().length, moved]") == [0, 0]
