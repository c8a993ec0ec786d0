"""The web page's list, its photos and its tokens, as a person meets them: a real browser, a real server.

What the page shows is compared with what the API says.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pages import NO_BREAK, PHOTO, TOP, OpenPage, Sites, api, classified, classify, percent, settled, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route


def test_tasks_are_listed_as_the_api_has_them(page: Page, sites: Sites) -> None:
    tasks = api(sites.full, "v1/tasks")["tasks"]
    rows = page.get_by_role("table", name="Tasks of this server").locator("tbody tr")
    assert rows.count() == len(tasks) == 2
    for row, task in zip(rows.all(), tasks, strict=True):
        assert row.get_by_role("link").inner_text() == task["name"]
        cells = row.get_by_role("cell").all_inner_texts()
        assert cells[0].split() == ("\u2013 not measured" if task["accuracy"] is None else percent(task["accuracy"])).split()
        assert cells[1:3] == [str(task["classes"]), f"{task['size']}{NO_BREAK}bytes"]
        assert cells[3] == f"version {task['channels']['stable']['version']}"
        assert row.locator("time").get_attribute("datetime") == task["updated"].replace("Z", ".000Z")
    assert page.locator("#tasks-count").inner_text() == "2"


def test_an_empty_server_says_how_to_begin(open_page: OpenPage, sites: Sites) -> None:
    page = open_page(sites.empty)
    page.wait_for_selector(".steps")
    assert page.get_by_role("heading", level=1).inner_text() == "No task yet"
    assert page.locator("#photo").is_hidden()
    commands = page.locator(".command code").all_inner_texts()
    assert commands[0] == "edge-qprompt adapt photos/ --out flowers.qpk --json > flowers.json"
    assert commands[-1].startswith(f"edge-qprompt push flowers.qpk --server {sites.empty} --task flowers ")


def test_many_tasks_come_in_parts(page: Page, sites: Sites) -> None:
    task = api(sites.full, "v1/tasks")["tasks"][0]

    def part(route: Route) -> None:
        after = int(urllib.parse.parse_qs(urllib.parse.urlsplit(route.request.url).query).get("after", ["t0"])[0][1:])
        names = [f"t{i}" for i in range(after + 1, after + 101)]
        route.fulfill(json={"tasks": [task | {"name": name} for name in names], "next": None if after else names[-1]})

    page.route("**/v1/tasks?*", part)
    page.reload()
    page.get_by_role("button", name="Show more tasks").click()
    page.wait_for_selector("#tasks tbody tr:nth-child(200)")
    assert page.locator("#tasks tbody tr").count() == 200
    assert page.evaluate("document.activeElement.textContent") == "t101"
    assert page.get_by_role("button", name="Show more tasks").count() == 0


# --- photos ---------------------------------------------------------------------------------------


def bars(page: Page, task: str) -> list[tuple[str, str]]:
    card = page.locator(".answer").filter(has=page.get_by_role("link", name=task))
    return [(row.locator(".name").inner_text(), row.locator(".percent").inner_text()) for row in card.locator("li").all()]


def test_a_photo_is_answered_by_every_task(page: Page, sites: Sites) -> None:
    classified(page, lambda: page.set_input_files("#choose", PHOTO))
    tasks = classify(sites.full, PHOTO).json()["images"][0]["tasks"]
    assert set(tasks) == {sites.task, sites.hostile}
    for name, found in tasks.items():
        assert bars(page, name) == [(row["label"], percent(row["probability"])) for row in found["labels"]]
    best = tasks[sites.task]["labels"][0]
    status = page.get_by_role("status").filter(has_text="answered")
    assert status.inner_text().startswith("2 tasks answered in ")
    assert f"{sites.task}: {best['label']}, {percent(best['probability'])}" in (status.text_content() or "")
    until(page, lambda: bool(page.evaluate("document.getAnimations().length === 0")))
    drawn = page.locator(".answer .bar").evaluate_all(
        "all => all.map(bar => bar.firstChild.getBoundingClientRect().width / bar.clientWidth)"
    )
    assert drawn == pytest.approx([row["probability"] for found in tasks.values() for row in found["labels"]], abs=0.01)


def test_the_photo_is_shown_while_the_server_works(page: Page) -> None:
    held: list[Route] = []
    page.route("**/v1/classify*", lambda route: held.append(route))
    with page.expect_request("**/v1/classify*"):
        page.set_input_files("#choose", PHOTO)
    assert page.get_by_role("progressbar", name="Asking every task").is_visible()
    assert page.locator("#answers").get_attribute("aria-busy") == "true"
    until(page, lambda: bool(page.evaluate("document.getElementById('preview').naturalWidth > 0")))
    assert page.get_by_role("img", name="The photo 3.png").is_visible()
    held[0].continue_()
    page.wait_for_selector(".answer")
    assert page.locator("#busy").is_hidden()


def test_a_new_photo_replaces_one_that_is_still_asked_about(page: Page) -> None:
    held: list[Route] = []
    page.route("**/v1/classify*", lambda route: held.append(route))
    for name in ("first.png", "second.png"):
        with page.expect_request("**/v1/classify*"):
            page.set_input_files("#choose", {"name": name, "mimeType": "image/png", "buffer": PHOTO.read_bytes()})
    until(page, lambda: len(held) == 2)
    held[1].continue_()
    page.wait_for_selector(".answer")
    assert held[0].request.failure is not None  # called off
    assert page.locator("#drop-hint").inner_text() == "second.png"


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photo_may_be_dropped_or_pasted(page: Page, way: str) -> None:
    transfer = page.evaluate_handle(
        """photo => {
          const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(photo), letter => letter.charCodeAt(0));
          for (const name of ["a.png", "b.png"]) transfer.items.add(new File([bytes], name, { type: "image/png" }));
          return transfer;
        }""",
        base64.b64encode(PHOTO.read_bytes()).decode(),
    )
    events = {
        "drop": "transfer => document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true}))",
        "paste": "transfer => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}))",
    }
    classified(page, lambda: page.evaluate(events[way], transfer))
    page.wait_for_selector(".answer")
    assert page.locator("#drop-hint").inner_text() == "a.png"
    assert "One photo at a time: the first of 2 was taken." in page.locator("#status").inner_text()


def test_names_are_added_at_request_time(page: Page, sites: Sites) -> None:
    classified(page, lambda: page.set_input_files("#choose", PHOTO))
    page.fill("#labels", " woollen scarf,, sock ")
    answer = classified(page, lambda: page.get_by_role("button", name="Ask", exact=True).click())
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(answer.url).query)
    assert query == {"top": [str(TOP)], "labels": ["woollen scarf,sock"]}
    page.wait_for_selector(".chip")
    card = page.locator(".answer").filter(has=page.get_by_role("link", name=sites.task))
    shown = {row.locator(".name").inner_text(): row.locator(".chip").count() for row in card.locator("li").all()}
    assert shown == {"woollen scarf": 1, "sock": 1, "ankle boot": 0, "bag": 0, "coat": 0}


def test_what_is_no_image_is_refused_with_the_servers_words(page: Page, sites: Sites, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("no photo")
    answer = classified(page, lambda: page.set_input_files("#choose", notes))
    refused = classify(sites.full, notes)
    assert answer.status == refused.status_code == 422
    assert "notes.txt" in refused.json()["detail"]
    alert = page.get_by_role("alert")
    assert alert.locator("p").all_inner_texts() == ["The photo was not classified", refused.json()["detail"]]
    assert page.locator(".answer").count() == 0
    classified(page, lambda: page.set_input_files("#choose", PHOTO))
    page.wait_for_selector(".answer")
    assert page.get_by_role("alert").count() == 0


@pytest.mark.parametrize(
    ("status", "retry_after", "wait"),
    [(429, "12", "Try again in 12 seconds."), (503, "300", "Try again in 5 minutes."), (503, "soon", None), (503, None, None)],
)
def test_a_busy_server_says_when_to_come_back(page: Page, status: int, retry_after: str | None, wait: str | None) -> None:
    headers = {"Content-Type": "application/problem+json"} | ({"Retry-After": retry_after} if retry_after else {})
    body = json.dumps({"title": "Busy", "status": status, "detail": "all places of the queue are taken"})
    page.route("**/v1/classify*", lambda route: route.fulfill(status=status, headers=headers, body=body))
    page.set_input_files("#choose", PHOTO)
    lines = page.get_by_role("alert").locator("p")
    lines.nth(1).wait_for()
    expected = ["The photo was not classified", "all places of the queue are taken", wait]
    assert lines.all_inner_texts() == [line for line in expected if line]
    page.unroute("**/v1/classify*")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".answer")


def test_a_lost_network_is_told(page: Page, sites: Sites) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    page.set_input_files("#choose", PHOTO)
    assert "The server cannot be reached." in page.get_by_role("alert").inner_text()
    page.get_by_role("link", name=sites.task).click()
    page.get_by_text("The task cannot be shown").wait_for()
    page.unroute("**/v1/**")
    page.locator("#task").get_by_role("button", name="Try again").click()
    page.get_by_role("heading", name="Versions").wait_for()


def test_a_proxys_own_pages_are_not_shown(page: Page) -> None:
    page.route("**/v1/classify*", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>", content_type="text/html"))
    page.set_input_files("#choose", PHOTO)
    page.get_by_text("The server answered 502.").wait_for()
    page.unroute("**/v1/classify*")
    page.route("**/v1/classify*", lambda route: route.fulfill(status=200, body="<h1>Log in</h1>", content_type="text/html"))
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("The server's answer is not JSON.").wait_for()


# --- tokens ---------------------------------------------------------------------------------------


def stable(sites: Sites) -> dict[str, Any]:
    found: dict[str, Any] = api(sites.full, f"v1/tasks/{sites.task}")["channels"]["stable"]
    return found


def test_roll_back_and_forth(task_page: Page, sites: Sites) -> None:
    page, before = task_page, stable(sites)
    page.get_by_role("button", name="Make version 1 stable").click()
    dialog = page.get_by_role("dialog", name="Make version 1 stable?")
    assert f"edge-qprompt rollback {sites.task} --to 1 --key KEY" in dialog.inner_text()
    assert "unsigned" in dialog.inner_text()
    for refused in ("eqp_unknown", sites.reader, "two words"):
        dialog.get_by_role("textbox", name="Token").fill(refused)
        dialog.get_by_role("button", name="Make stable").click()
        page.wait_for_selector("#token-submit:not(:disabled)")
        assert dialog.get_by_role("alert").inner_text() != ""
    assert stable(sites) == before
    dialog.get_by_role("textbox", name="Token").fill(sites.promoter)
    dialog.get_by_role("button", name="Make stable").click()
    notice = page.get_by_role("status").filter(has_text="Version 1 is stable on this server now.")
    notice.wait_for()
    assert f"edge-qprompt rollback {sites.task} --to 1 --server {sites.full} --key KEY" in notice.inner_text()
    after = stable(sites)
    assert (after["version"], after["signed"], after["serial"]) == (1, False, before["serial"] + 1)
    page.get_by_text("Devices refuse it and stay with what they have.").wait_for()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.get_by_role("button", name=f"Make version {before['version']} stable").click()
    page.get_by_role("dialog").get_by_role("button", name="Make stable").click()  # the token is still known
    page.get_by_text(f"Version {before['version']} is stable on this server now.").wait_for()
    assert stable(sites)["version"] == before["version"]
    page.get_by_role("button", name="Forget token").click()
    assert page.evaluate("sessionStorage.length") == 0
    assert page.get_by_role("button", name="Forget token").count() == 0


def test_a_token_goes_only_where_it_is_needed(task_page: Page, sites: Sites) -> None:
    sent: list[tuple[str, bool]] = []
    task_page.on("request", lambda request: sent.append((request.method, "authorization" in request.headers)))
    version = stable(sites)["version"]
    for other in (3, version):
        task_page.get_by_role("button", name=f"Make version {other} stable").click()
        task_page.get_by_role("textbox", name="Token").fill(sites.promoter)
        task_page.keyboard.press("Enter")
        task_page.get_by_text(f"Version {other} is stable on this server now.").wait_for()
    assert dict(sent) == {"PUT": True, "GET": False}


def test_nothing_moves_when_the_dialog_is_left(task_page: Page, sites: Sites) -> None:
    before, button = stable(sites), task_page.get_by_role("button", name="Make version 1 stable")
    ways: tuple[Callable[[], None], ...] = (
        lambda: task_page.keyboard.press("Escape"),
        lambda: task_page.get_by_role("button", name="Cancel").click(),
    )
    for leave in ways:
        button.click()
        task_page.get_by_role("textbox", name="Token").fill(sites.promoter)
        leave()
        task_page.get_by_role("dialog").wait_for(state="hidden")
        assert button.evaluate("button => button === document.activeElement")
    assert stable(sites) == before
    assert task_page.evaluate("sessionStorage.length") == 0


def test_a_locked_server_asks_for_a_token_and_goes_on(open_page: OpenPage, sites: Sites) -> None:
    page = open_page(sites.locked)
    dialog = page.get_by_role("dialog", name="This server wants a token")
    field = dialog.get_by_role("textbox", name="Token")
    field.fill("eqp_unknown")
    page.keyboard.press("Enter")
    dialog.get_by_role("alert").wait_for()  # what the server said of it
    assert field.get_attribute("aria-invalid") == "true"
    field.fill(sites.reader)
    page.keyboard.press("Enter")
    page.wait_for_selector("#tasks tbody")
    classified(page, lambda: page.set_input_files("#choose", PHOTO))
    page.wait_for_selector(".answer")
    page.goto(f"{sites.locked}/#/tasks/{sites.task}")
    page.wait_for_selector(".strip")
    assert '-H "Authorization: Bearer $EDGE_QPROMPT_TOKEN"' in page.locator("#task").inner_text()
    page.reload()
    page.wait_for_selector(".strip")


def test_a_locked_server_may_be_left_alone(open_page: OpenPage, sites: Sites) -> None:
    page = open_page(sites.locked)
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.get_by_text("The tasks cannot be listed").wait_for()
    page.get_by_role("button", name="Enter a token").click()
    page.get_by_role("textbox", name="Token").fill(sites.promoter)  # known, but not for reading
    page.keyboard.press("Enter")
    page.get_by_text("this token lacks the scope read").wait_for()
    page.get_by_role("button", name="Enter a token").click()
    page.get_by_role("textbox", name="Token").fill(sites.reader)
    page.get_by_role("button", name="Go on").click()
    page.wait_for_selector("#tasks tbody")


# --- what the server sends with the page ----------------------------------------------------------


def test_the_policy_forbids_what_the_page_does_not_need(browser: Browser, sites: Sites) -> None:
    policy = httpx.get(sites.full).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;")
    page = browser.new_page()  # one that may complain
    page.goto(sites.full)
    stopped = settled(
        page,
        """() => new Promise(done => {
          document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective));
          document.body.setAttribute("onclick", "window.taken = true");
          document.body.click();  // a browser of today reports a handler when it would run, one of yesterday when it is set
        })""",
    )
    assert stopped == "script-src-attr"
    assert page.evaluate("window.taken") is None
    page.close()


def test_a_promise_that_is_never_kept_fails(open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pages.WAIT_MS", 100)
    with pytest.raises(Exception, match="not settled within 100 ms"):
        settled(open_page("about:blank"), "() => new Promise(() => {})")


def test_the_page_works_under_a_path_of_a_proxy(open_page: OpenPage, sites: Sites) -> None:
    page = open_page("about:blank")
    outside = "http://proxy.test/vision"

    def forward(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace(outside, sites.full)))

    page.route(f"{outside}/**", forward)
    page.goto(f"{outside}/")
    page.get_by_role("link", name=sites.task).click()
    page.wait_for_selector(".strip")
    assert f"edge-qprompt pull {sites.task} --server {outside} --trust" in page.locator("#task").inner_text()


def test_all_modules_are_asked_for_at_once(page: Page) -> None:
    preloaded = page.locator("link[rel=modulepreload], script").evaluate_all("all => all.map(each => each.href || each.src)")
    loaded = page.evaluate("performance.getEntriesByType('resource').map(each => each.name).filter(name => name.endsWith('.js'))")
    assert sorted(preloaded) == sorted(set(loaded))
