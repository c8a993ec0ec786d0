"""The description of the API in a real browser: shown by files of this package alone, under the pages' policy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from pages import OpenPage, Sites
from servers import LiveServer

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route


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


def test_nothing_leaves_the_origin_even_when_a_request_is_tried(open_page: OpenPage, sites: Sites) -> None:
    page = open_page("about:blank")
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(f"{sites.full}/docs")
    page.locator("#operations-operations-healthz_healthz_get").get_by_role("button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table .response-col_status").get_by_text("200").wait_for()
    outside = [url for url in asked if not url.startswith((sites.full + "/", "data:", "blob:" + sites.full))]
    assert outside == []
    assert {f"{sites.full}/{name}" for name in ("docs", "docs/swagger-ui-bundle.js", "openapi.json", "healthz")} <= set(asked)


def test_no_address_makes_it_show_another_description(open_page: OpenPage, sites: Sites) -> None:
    asked: list[str] = []
    page = open_page("about:blank")
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(f"{sites.full}/docs?url={sites.empty}/openapi.json")
    page.wait_for_selector(".opblock")
    assert f"{sites.empty}/openapi.json" not in asked


def test_its_headers_are_those_of_the_other_pages(sites: Sites) -> None:
    wanted = httpx.get(sites.full).headers
    for path in ("/docs", "/docs/show.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"):
        got = httpx.get(sites.full + path)
        assert got.status_code == 200
        for name in ("content-security-policy", "cache-control", "x-content-type-options", "referrer-policy"):
            assert got.headers[name] == wanted[name], path
    assert "unsafe" not in wanted["content-security-policy"]
    assert "<script>" not in httpx.get(f"{sites.full}/docs").text
    assert [httpx.get(sites.full + path).status_code for path in ("/redoc", "/docs/oauth2-redirect")] == [404, 404]


def test_it_works_under_a_path_of_a_proxy(open_page: OpenPage, tmp_path: Path) -> None:
    server = LiveServer.start(tmp_path / "store", tmp_path, "--root-path", "/vision", ready=False)
    try:
        page = open_page("about:blank")
        strip = re.compile(re.escape(server.url) + "/vision/")

        def forward(route: Route) -> None:
            """What a proxy does: it takes the path off."""
            route.fulfill(response=route.fetch(url=strip.sub(f"{server.url}/", route.request.url)))

        page.route(strip, forward)
        page.goto(f"{server.url}/vision/docs")
        page.wait_for_selector(".opblock")
        assert page.locator(".servers option").all_inner_texts() == ["/vision"]
    finally:
        server.stop()
