"""Request ids: taken or made, in the answer's header, in the problem, in every line of the log."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from apis import PHOTO, Api
from servers import LiveServer, token, until
from starlette.applications import Starlette
from starlette.testclient import TestClient

from server import protocol
from server.request_id import of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
MADE = re.compile("[0-9a-f]{32}")


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ({"X-Request-ID": "a"}, "a"),
        ({"X-Request-ID": "A-z_0.9" + "x" * 121}, "A-z_0.9" + "x" * 121),
        ({"X-Request-ID": "mine", "traceparent": PARENT}, "mine"),
        ({"traceparent": PARENT}, TRACE),
        ({"traceparent": f"cc-{TRACE}-00f067aa0ba902b7-01-what-is-new"}, TRACE),  # of a later version
        ({"X-Request-ID": "", "traceparent": PARENT}, TRACE),
        ({}, None),
        ({"X-Request-ID": "x" * 129}, None),
        ({"X-Request-ID": "a b"}, None),
        ({"X-Request-ID": 'a"}'}, None),
        ({"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, None),
        ({"traceparent": TRACE}, None),
    ],
)
def test_an_id_is_taken_where_it_is_one_else_made(api: Api, sent: dict[str, str], wanted: str | None) -> None:
    answer = api.client.get("/v1/tasks/gone", headers=sent)
    assert answer.status_code == 404
    found = answer.headers.get_list("X-Request-ID")
    assert len(found) == 1
    assert found[0] == wanted or (wanted is None and MADE.fullmatch(found[0]))
    assert answer.json()["request_id"] == found[0]


def test_every_request_has_its_own(api: Api) -> None:
    assert len({api.client.get("/healthz").headers["X-Request-ID"] for _ in range(20)}) == 20
    assert len({of([]) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/v1/tasks", "/healthz", "/readyz", "/metrics"])
def test_every_answer_has_one(api: Api, path: str) -> None:
    assert api.client.get(path, headers={"X-Request-ID": "me"}).headers["X-Request-ID"] == "me"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("DELETE", "/v1/tasks", 405), ("GET", "/v1/tasks?limit=0", 422), ("GET", "/v1/audit", 401)],
)
def test_every_problem_has_one(api: Api, method: str, path: str, status: int) -> None:
    answer = api.client.request(method, path, headers={"X-Request-ID": "me"})
    assert (answer.status_code, answer.json()["request_id"], answer.headers["X-Request-ID"]) == (status, "me", "me")


def test_an_error_that_nobody_foresaw_has_one(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(api.client.app.state.server.catalogue, "task", fail)  # type: ignore[attr-defined]
    answer = api.client.get("/v1/tasks/one", headers={"X-Request-ID": "me"})
    assert (answer.status_code, answer.json()["request_id"]) == (500, "me")
    assert answer.headers.get_list("X-Request-ID") == ["me"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_answer_from_outside_of_the_app_has_one() -> None:
    app = Starlette()
    app.mount("/", protocol.FULL)
    answer = TestClient(app).get("/", headers={"X-Request-ID": "me"})
    assert (answer.status_code, answer.json()["request_id"], answer.headers["X-Request-ID"]) == (503, "me", "me")
    assert answer.headers["Retry-After"] == "5"


# --- the log


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("live")
    server = LiveServer.start(folder / "store", folder)
    yield server
    server.stop()


def lines(server: LiveServer, request_id: str, wanted: int = 1) -> list[dict[str, Any]]:
    """Those of a request; the last is written when its answer has gone."""
    end = time.monotonic() + 5
    while True:
        read = [json.loads(line) for line in server.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found = [line for line in read if line.get("request_id") == request_id]
        if len(found) >= wanted or time.monotonic() > end:
            return found
        time.sleep(0.01)


def test_the_line_of_a_request(live: LiveServer) -> None:
    secret = token(live.store, "read", "publish")
    answer = httpx.get(live.url + "/v1/tasks", headers={"X-Request-ID": "line", "Authorization": f"Bearer {secret}"})
    (line,) = lines(live, "line")
    facts = {name: line[name] for name in ("method", "path", "status", "in", "out", "who")}
    assert facts == {"method": "GET", "path": "/v1/tasks", "status": 200, "in": 0, "out": len(answer.content), "who": "token"}
    httpx.post(live.url + "/v1/classify?task=gone", content=PHOTO, headers={"X-Request-ID": "photo"})
    (line,) = lines(live, "photo")
    assert (line["in"], line["status"], "who" in line) == (len(PHOTO), 404, False)
    log = live.log.read_text()
    assert secret not in log
    assert "127.0.0.1" not in "".join(line for line in log.splitlines() if '"request"' in line)


def test_what_is_logged_during_a_request_names_it(live: LiveServer) -> None:
    for number in range(2):
        httpx.get(live.url + "/v1/tasks", headers={"X-Request-ID": f"refused{number}", "Authorization": "Bearer eqp_wrong"})
        assert [line["event"] for line in lines(live, f"refused{number}", 2)] == ["token refused", "request"]
    (Path(live.store) / "catalogue.sqlite3").rename(Path(live.store) / "moved")
    try:
        headers = {"X-Request-ID": "broken", "Authorization": "Bearer eqp_wrong"}
        assert httpx.get(live.url + "/readyz", headers=headers).status_code == 503
        assert [line["event"] for line in lines(live, "broken", 2)] == ["the database failed", "not ready"]  # in a thread, too
    finally:
        (Path(live.store) / "moved").rename(Path(live.store) / "catalogue.sqlite3")
    until(lambda: httpx.get(live.url + "/readyz").status_code == 200)
