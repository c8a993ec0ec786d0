"""A task's page against what the API, the pack and the library say."""

from __future__ import annotations

import base64
import itertools
import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from packs import qcoop, quantized
from pages import HOSTILE, NARROWEST, NO_BREAK, OpenPage, Sites, api, assert_no_sideways, percent, settled, show_task, until

from edge_qprompt.pack.pack import Pack, PackTensor, Section, names_section
from edge_qprompt.pack.section import TEMPLATE

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route


def texts(found: Locator) -> list[str]:
    """With a minus sign that Python writes."""
    return [text.replace("\u2212", "-") for text in found.all_inner_texts()]


def stable_version(sites: Sites) -> dict[str, Any]:
    task = api(sites.full, f"v1/tasks/{sites.task}")
    found: dict[str, Any] = next(each for each in task["versions"] if each["version"] == task["channels"]["stable"]["version"])
    return found


def pack_of(sites: Sites, version: dict[str, Any]) -> Pack:
    return Pack.decode(httpx.get(f"{sites.full}/v1/packs/{version['pack']}").raise_for_status().content)


def test_versions_and_class_names(task_page: Page, sites: Sites) -> None:
    task = api(sites.full, f"v1/tasks/{sites.task}")
    rows = task_page.locator(".versions tbody tr")
    assert rows.locator("a").all_inner_texts() == ["Version 3", "Version 2", "Version 1"]
    assert rows.locator("td:nth-child(3)").all_inner_texts() == [f"{each['size']}{NO_BREAK}bytes" for each in task["versions"]]
    assert [row.get_by_role("button").count() for row in rows.all()] == [1, 0, 1]  # none for the one on stable
    assert task_page.locator(".names li").all_inner_texts() == stable_version(sites)["class_names"]
    assert task_page.title() == f"{sites.task} \u00b7 edge-qprompt"


def test_codebook_and_histogram_are_the_packs(task_page: Page, sites: Sites) -> None:
    (tensor,) = pack_of(sites, stable_version(sites)).tensors
    codebook = [f"{value:.3f}" for value in tensor.codebook]
    counts = np.bincount(tensor.data.astype(int), minlength=len(codebook))
    assert texts(task_page.locator(".codebook li")) == codebook
    task_page.get_by_text("As a table").click()
    rows = [texts(row.locator("th, td")) for row in task_page.locator(".numbers tbody tr").all()]
    assert rows == [[value, str(n), percent(n / counts.sum())] for value, n in zip(codebook, counts, strict=True)]
    drawn = np.array(task_page.locator(".column-fill").evaluate_all("all => all.map(e => e.getBoundingClientRect().height)"))
    assert drawn / drawn.max() == pytest.approx(counts / counts.max(), abs=0.01)


def test_squares_are_the_weights(task_page: Page, sites: Sites) -> None:
    (tensor,) = pack_of(sites, stable_version(sites)).tensors
    paths = task_page.locator(".strip path").evaluate_all(
        "paths => paths.map(path => [path.getAttribute('fill-opacity'), path.getAttribute('d').split('M').length - 1])"
    )
    counts = np.bincount(tensor.data.astype(int), minlength=4)
    assert dict(paths) == {"0.333": counts[1], "0.667": counts[2], "1.000": counts[3]}


def test_curve_and_accuracies_are_the_reports(task_page: Page, sites: Sites) -> None:
    report = stable_version(sites)["report"]
    points = task_page.locator(".curve-line").get_attribute("points") or ""
    drawn = [tuple(map(float, point.split(","))) for point in points.split()]
    assert len(drawn) == len(report["losses"])
    assert (drawn[0], drawn[-1]) == ((0, 0), (600, 200))  # from the left upper corner to the right lower one
    assert all(before[1] <= after[1] for before, after in itertools.pairwise(drawn))
    card = task_page.get_by_role("region", name="How it was learned")
    assert "Accuracy on 48 photos it did not learn from" in card.inner_text()
    shown = dict(zip(card.locator(".label").all_inner_texts(), card.locator(".percent").all_inner_texts(), strict=True))
    assert shown["This pack"] == percent(report["held_out_accuracy"])
    assert shown["The prompt written by hand"] == percent(report["zero_shot_accuracy"])


def test_losses_without_epochs_are_drawn_too(page: Page, sites: Sites) -> None:
    def replace(route: Route) -> None:
        task = api(sites.full, f"v1/tasks/{sites.task}")
        report = {"loss_by_epoch": [4.0, 2.0, 1.0]}  # what a report without `losses` has
        route.fulfill(json=task | {"versions": [version | {"report": report} for version in task["versions"]]})

    page.route(f"**/v1/tasks/{sites.task}?*", replace)
    page.get_by_role("link", name=sites.task).click()
    curve = page.get_by_role("img", name="Loss while learning: 4.000 after epoch 1, 1.000 after epoch 3")
    curve.wait_for()
    assert curve.locator(".curve-line").get_attribute("points") == "0.0,0.0 300.0,133.3 600.0,200.0"


def test_bytes_add_up(task_page: Page, sites: Sites) -> None:
    pack = pack_of(sites, stable_version(sites))
    card = task_page.get_by_role("region", name="What is in the pack")
    shown = dict(zip(card.locator(".label").all_inner_texts(), card.locator(".percent").all_inner_texts(), strict=True))
    sizes = {what: int(size.split(NO_BREAK)[0]) for what, size in shown.items()}
    assert sizes["Weights and codebooks"] == sum(tensor.payload_bytes for tensor in pack.tensors)
    assert sum(sizes.values()) == pack.size


def test_the_channel_is_what_its_envelope_states(task_page: Page, sites: Sites) -> None:
    envelope = api(sites.full, f"v1/tasks/{sites.task}/channels/stable")
    statement = json.loads(base64.b64decode(envelope["payload"]))
    card = task_page.get_by_role("region", name="Channel stable")
    assert card.locator(".chip").inner_text() == ("signed" if envelope["signatures"] else "not signed")
    facts = dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))
    assert facts["Statement"] == f"number {statement['serial']}"
    assert facts.get("Key", "") == ", ".join(signature["keyid"] for signature in envelope["signatures"])
    times = [time.get_attribute("datetime") or "" for time in card.locator("time").all()]
    assert [time.replace(".000Z", "Z") for time in times[:2]] == [statement["issued"], statement["expires"]]


@pytest.mark.parametrize(
    "envelope", [{}, {"payload": "!", "signatures": []}, {"payload": "bnVsbA==", "signatures": []}, [], None]
)
def test_an_unreadable_envelope_is_told(page: Page, sites: Sites, envelope: Any) -> None:
    page.route("**/channels/stable", lambda route: route.fulfill(json=envelope))
    page.get_by_role("link", name=sites.task).click()
    page.get_by_text("The channel cannot be shown").wait_for()
    page.wait_for_selector(".strip")


@pytest.mark.parametrize(
    ("expires", "said"),
    [("2020-01-01T00:00:00Z", "Devices refuse a statement that has expired"), ("soon", "Devices take it when")],
)
def test_an_old_or_odd_statement_is_told(page: Page, sites: Sites, expires: str, said: str) -> None:
    envelope = api(sites.full, f"v1/tasks/{sites.hostile}/channels/stable")
    statement = json.loads(base64.b64decode(envelope["payload"])) | {"expires": expires}
    changed = envelope | {"payload": base64.b64encode(json.dumps(statement).encode()).decode()}
    page.route("**/channels/stable", lambda route: route.fulfill(json=changed))
    page.get_by_role("link", name=sites.hostile).click()
    page.get_by_role("region", name="Channel stable").get_by_text(said).wait_for()


def test_another_version_is_shown_by_its_link(task_page: Page, sites: Sites) -> None:
    task_page.get_by_role("link", name="Version 3").click()
    task_page.wait_for_url(f"**/#/tasks/{sites.task}/3")
    pack = pack_of(sites, api(sites.full, f"v1/tasks/{sites.task}")["versions"][0])
    until(task_page, lambda: task_page.locator(".codebook li").count() == 16)
    assert texts(task_page.locator(".codebook li")) == [f"{value:.3f}" for value in pack.tensors[0].codebook]
    assert task_page.get_by_role("region", name="How it was learned").count() == 0  # no report came with it


def test_what_is_not_there_is_told(open_page: OpenPage, sites: Sites) -> None:
    page = open_page(f"{sites.full}/#/tasks/absent")
    page.get_by_role("alert").get_by_text("absent").wait_for()
    page.goto(f"{sites.full}/#/tasks/{sites.task}/99")
    page.get_by_text("There is no version 99 of this task.").wait_for()
    page.get_by_role("link", name="Show the one on stable").click()
    page.wait_for_selector(".strip")


def test_a_damaged_pack_is_told(page: Page, sites: Sites) -> None:
    page.route("**/v1/packs/*", lambda route: route.fulfill(body=b"\x89QPK" + bytes(40)))
    page.get_by_role("link", name=sites.task).click()
    page.get_by_text("The pack cannot be shown").wait_for()
    assert page.get_by_role("heading", name="Versions").is_visible()


TWO = names_section(("cat", "dog"))
LINE = np.linspace(-1, 1, 96, dtype=np.float32).reshape(3, 32)
PACKS = {
    "8 bits": (qcoop(quantized(8, (4, 512)), sections=(TWO,)), 256, "4 \u00d7 512 weights, 8 bits each"),
    "raw": (qcoop(PackTensor.raw(1, LINE), sections=(TWO,)), 32, "float16, not quantized"),
    "by hand": (qcoop(sections=(Section(TEMPLATE.tag, b"a photo of a {}."), TWO)), 0, "a photo of a {}."),
    "two tensors": (qcoop(quantized(1, (2, 8)), quantized(3, (40,), seed=1), sections=(TWO,)), 2 + 8, "40 weights, 3 bits each"),
}


@pytest.mark.parametrize("kind", PACKS)
def test_every_kind_of_pack_is_shown(open_page: OpenPage, sites: Sites, kind: str) -> None:
    pack, columns, text = PACKS[kind]
    page = open_page(sites.full, viewport=NARROWEST)
    page.route("**/v1/packs/*", lambda route: route.fulfill(body=pack.encode()))
    page.get_by_role("link", name=sites.task).click()
    card = page.get_by_role("region", name="What is in the pack")
    card.get_by_text(text).wait_for()
    assert card.locator(".column").count() == columns
    assert f"{pack.size:,}{NO_BREAK}bytes in all." in card.inner_text()
    assert_no_sideways(page)


@pytest.mark.parametrize(
    "report",
    [None, [], "text", {}, {"losses": "falling"}, {"losses": [[1, None], ["2", 3]], "seconds": 5}, {"held_out_accuracy": 7}],
)
def test_a_report_that_says_nothing_is_left_out(page: Page, sites: Sites, report: Any) -> None:
    def replace(route: Route) -> None:
        task = api(sites.full, f"v1/tasks/{sites.task}")
        route.fulfill(json=task | {"versions": [version | {"report": report} for version in task["versions"]]})

    page.route(f"**/v1/tasks/{sites.task}?*", replace)
    page.get_by_role("link", name=sites.task).click()
    page.wait_for_selector(".strip")
    assert page.get_by_role("region", name="How it was learned").count() == 0


def test_hostile_names_are_only_text(open_page: OpenPage, sites: Sites) -> None:
    page = open_page(f"{sites.full}/#/tasks/{sites.hostile}", viewport=NARROWEST)
    page.wait_for_selector(".names li")
    assert tuple(page.locator(".names li").all_text_contents()) == HOSTILE
    assert page.locator(".names img").count() == 0
    assert page.title() == f"{sites.hostile} \u00b7 edge-qprompt"
    assert_no_sideways(page)


# --- commands -------------------------------------------------------------------------------------


def commands_of(sites: Sites) -> dict[str, str]:
    task, url = sites.task, sites.full
    return {
        "Get it on a device": f"edge-qprompt pull {task} --server {url} --trust KEY.pub --out {task}.qpk",
        "Ask it about a photo": f'curl --data-binary @new.jpg "{url}/v1/classify?task={task}"',
        "Roll every device back": f"edge-qprompt rollback {task} --to 1 --server {url} --key KEY",
    }


def test_commands_are_copied(open_page: OpenPage, sites: Sites) -> None:
    page = show_task(open_page, sites, permissions=["clipboard-read", "clipboard-write"])
    for purpose, line in commands_of(sites).items():
        button = page.get_by_role("button", name=f"Copy the command: {purpose}")
        button.click()
        until(page, lambda button=button: button.inner_text() == "Copied")  # type: ignore[misc]
        assert settled(page, "() => navigator.clipboard.readText()") == line
        assert page.get_by_role("status").filter(has_text="Copied").count() >= 1


def test_commands_are_copied_without_the_clipboard_of_https(task_page: Page, sites: Sites) -> None:
    task_page.evaluate(
        """Object.defineProperty(navigator, "clipboard", { value: undefined });
        document.addEventListener("copy", () => { window.copied = getSelection().toString(); });"""
    )
    for purpose, line in commands_of(sites).items():
        task_page.get_by_role("button", name=f"Copy the command: {purpose}").click()
        assert task_page.evaluate("window.copied") == line
