"""What the tests of the web page know of the servers in `page_fixtures`, and ask of them and of the browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from common import DEMO

if TYPE_CHECKING:
    from playwright.sync_api import Page, Response

PHOTO = DEMO / "test" / "bag" / "3.png"
HOSTILE = (
    "<img src=x onerror=document.title='taken'>",
    "\u202eright to left",
    "flower" * 14,
    "&amp;",
)
WAIT_MS = 30_000
NARROWEST = {"width": 360, "height": 740}  # CSS pixels of a small phone
TOP = 5  # labels of each task that the page shows
NO_BREAK = "\u00a0"

# Texts with a contrast below AA, and borders of controls below 3: luminance and ratio as WCAG 2.2 defines them.
FAINT = """(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ratio = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (light + 0.05) / (dark + 0.05);
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if ((colour[3] ?? 1) === 1) return colour;
    }
    return [255, 255, 255];
  };
  const scope = document.querySelector("dialog[open]") ?? document.body, faint = [];
  for (const node of scope.querySelectorAll("*")) {
    if (!node.checkVisibility() || node.closest(".visually-hidden, .skip")) continue;
    const style = getComputedStyle(node), size = parseFloat(style.fontSize), field = node.matches("input:not([type=file])");
    if (field || [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) {
      const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
      const got = ratio(parse(style.color), ground(node));
      if (got < (large ? 3 : 4.5)) faint.push([node.outerHTML.slice(0, 90), got]);
    }
    if (field || node.matches(".button")) {
      const behind = ground(node.parentElement);
      const got = Math.max(ratio(parse(style.borderTopColor), behind), ratio(ground(node), behind));
      if (got < 3) faint.push(["border of " + node.outerHTML.slice(0, 90), got]);
    }
  }
  return faint;
})()"""

OpenPage = Callable[..., "Page"]


@dataclass(frozen=True)
class Sites:
    """Three servers: one with tasks, one without any, and one with the same tasks that wants a token to read.

    Attributes:
        task: has three versions and stable on the second, which is signed; the third came without a report.
        hostile: a task with HOSTILE names.
        promoter, reader: tokens with the scopes promote, and read and classify.
    """

    full: str
    empty: str
    locked: str
    task: str
    hostile: str
    promoter: str
    reader: str


def show_task(open_page: OpenPage, sites: Sites, **options: Any) -> Page:
    page = open_page(f"{sites.full}/#/tasks/{sites.task}", **options)
    page.wait_for_selector(".strip")
    page.wait_for_selector(".state")
    return page


def api(url: str, path: str) -> Any:
    """What the server says, for comparison."""
    return httpx.get(f"{url}/{path}", timeout=60).raise_for_status().json()


def classify(url: str, photo: Path, query: str = f"top={TOP}") -> httpx.Response:
    """The same request as the page's."""
    return httpx.post(f"{url}/v1/classify?{query}", files={"image": (photo.name, photo.read_bytes())}, timeout=60)


def classified(page: Page, act: Callable[[], Any]) -> Response:
    """Do what sends a photo, and wait until the page is done with the answer."""
    with page.expect_response("**/v1/classify*") as found:
        act()
    page.wait_for_selector("#answers[aria-busy=false]")
    return found.value


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait for what no selector tells; playwright's `wait_for_function` needs eval, which the policy forbids."""
    for _ in range(WAIT_MS // 50):
        if holds():
            return
        page.wait_for_timeout(50)
    pytest.fail("waited in vain")


def settled(page: Page, promise: str, argument: Any = None) -> Any:
    """What a promise in the page gives, within WAIT_MS; `page.evaluate` would wait for ever.

    Args:
        page: where it is evaluated.
        promise: JavaScript, a function of `argument` that returns a promise.
        argument: handed to it.
    """
    limited = """argument => Promise.race([
      (%s)(argument),
      new Promise((_, late) => setTimeout(() => late(new Error("not settled within %d ms")), %d)),
    ])"""
    return page.evaluate(limited % (promise, WAIT_MS, WAIT_MS), argument)


def percent(share: float) -> str:
    return f"{100 * share:.1f}{NO_BREAK}%"


def assert_no_sideways(page: Page) -> None:
    """Nothing is wider than the window; its width is the screen's, for a phone's `innerWidth` grows with what is too wide."""
    assert page.viewport_size is not None
    wide = page.evaluate(
        """most => [...document.querySelectorAll("body, main *, dialog *")]
        .filter(e => e.checkVisibility() && !e.closest(".visually-hidden, thead"))
        .filter(e => e.getBoundingClientRect().right > most + 0.5 || e.getBoundingClientRect().left < -0.5)
        .map(e => e.outerHTML.slice(0, 80))""",
        page.viewport_size["width"],
    )
    assert wide == []
