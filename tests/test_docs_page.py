"""The description of the API in a real browser: shown by files of this package alone, under the pages' policy."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
from pages import OpenPage, Sites

from server.pages import POLICY

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest_plugins = ("page_fixtures",)


@pytest.fixture
def docs(open_page: OpenPage, sites: Sites) -> Page:
    """At its end, as at that of every page, nothing has complained: no script, no policy that was violated."""
    page = open_page(f"{sites.full}/docs")
    page.wait_for_selector(".opblock")
    return page


def test_every_operation_is_shown(docs: Page, sites: Sites) -> None:
    described = httpx.get(f"{sites.full}/openapi.json").json()["paths"]
    wanted = {(method.upper(), path) for path, operations in described.items() for method in operations}
    methods = docs.locator(".opblock-summary-method").all_inner_texts()
    paths = [text.replace("\u200b", "") for text in docs.locator(".opblock-summary-path").all_inner_texts()]
    assert set(zip(methods, paths, strict=True)) == wanted
    assert len(methods) == len(wanted) > 10
    assert docs.get_by_role("button", name="Authorize").count() == 1
