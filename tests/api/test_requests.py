"""What all paths have in common: HEAD beside GET, the methods in Allow, no redirects, no names that are not known."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from apis import PHOTO, Api
from starlette.types import Message

from edge_qprompt.pack.pack import Pack

GETS = (
    "/",
    "/docs",
    "/docs/show.js",
    "/openapi.json",
    "/static/app.js",
    "/healthz",
    "/readyz",
    "/v1/tasks",
    "/v1/tasks/one",
    "/v1/tasks/one/channels/stable",
    "/v1/packs/PACK",
    "/v1/residents",
    "/v1/audit",
    "/v1/tasks/nowhere",
    "/nowhere",
)


def exchange(api: Api, method: str, path: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body as the app itself sends them; a test client drops the body of HEAD, as a server does."""
    sent: list[Message] = []
    asked = iter(({"type": "http.request", "body": b"", "more_body": False},))

    async def receive() -> Message:
        return next(asked, None) or await asyncio.Event().wait()  # the client stays

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": method, "path": path, "query_string": b""}
    scope |= {"headers": [], "client": ("127.0.0.1", 1), "server": ("here", 80), "scheme": "http", "root_path": ""}
    assert api.client.portal is not None
    api.client.portal.call(api.client.app, scope, receive, send)
    headers = {name: value for name, value in sent[0]["headers"] if name != b"x-request-id"}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_the_body(api: Api, packs: list[Pack], path: str) -> None:
    path = path.replace("PACK", packs[0].pack_id)
    status, headers, body = exchange(api, "GET", path)
    assert len(body) == int(headers[b"content-length"]) > 0
    assert exchange(api, "HEAD", path) == (status, headers, b"")


def test_head_of_what_changes(api: Api) -> None:
    status, headers, body = exchange(api, "HEAD", "/metrics")
    assert (status, headers[b"content-type"][:10], body) == (200, b"text/plain", b"")
    found = api.client.get("/metrics").text
    assert 'edge_qprompt_requests_total{method="HEAD",route="/metrics",status="200"} 1.0' in found


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/docs/show.js", "GET, HEAD"),
        ("/static/app.js", "GET, HEAD"),
        ("/static/healthz", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/v1/classify", "POST"),
        ("/v1/tasks/one/versions", "POST"),
        ("/v1/tasks/one/channels/stable", "GET, HEAD, PUT"),
    ],
)
def test_all_methods_of_a_path_are_allowed(api: Api, path: str, allowed: str) -> None:
    for method in {"DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "INVENTED"} - set(allowed.split(", ")):
        got = api.client.request(method, path)
        assert (got.status_code, sorted(got.headers["allow"].split(", "))) == (405, sorted(allowed.split(", "))), method


@pytest.mark.parametrize("path", ["/v1/tasks/", "/v1/classify/", "/healthz/", "/docs/", "/static", "/static/", "/v1/tasks/one/"])
def test_no_slash_redirects_anybody(api: Api, path: str) -> None:
    for method in ("GET", "POST"):
        got = api.client.request(method, path, headers={"Host": "attacker.example"}, follow_redirects=False)
        assert got.status_code in (404, 405)
        assert "location" not in got.headers


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/v1/classify?tasks=one", "no parameter 'tasks' is taken here: did you mean 'task'?"),
        ("POST", "/v1/classify?task=one&embedding=1", "did you mean 'embeddings'?"),
        ("POST", "/v1/classify?xyz", "'xyz' is taken here: there is 'task', 'labels', 'top', 'channel', 'embeddings'"),
        ("GET", "/v1/tasks?limt=1", "did you mean 'limit'?"),
        ("GET", "/v1/tasks/one?verson=1", "no parameter 'verson' is taken here"),
        ("GET", "/v1/packs/" + "0" * 64 + "?format=json", "'format' is taken here: leave it out"),
        ("GET", "/v1/audit?taks=one", "did you mean 'task'?"),
        ("GET", "/v1/residents?limit=1", "leave it out"),
        ("GET", "/healthz?verbose", "leave it out"),
        ("GET", "/metrics?name=x", "leave it out"),
        ("POST", "/v1/tasks/one/versions?report=x", "leave it out"),
        ("PUT", "/v1/tasks/one/channels/stable?version=1", "leave it out"),
    ],
)
def test_parameters_that_are_not_known(api: Api, method: str, path: str, said: str) -> None:
    got = api.call(method, path, content=PHOTO if method == "POST" else b"")
    assert (got.status_code, got.headers["content-type"]) == (422, "application/problem+json")
    assert said in got.json()["detail"]


def test_a_name_of_any_length_costs_nothing_and_is_not_repeated(api: Api) -> None:
    start = time.monotonic()
    got = api.client.get("/v1/tasks?" + "limi" * 15_000 + "=1")
    assert time.monotonic() - start < 2
    assert (got.status_code, len(got.content) < 300) == (422, True)


@pytest.mark.parametrize(
    ("files", "data", "said"),
    [
        ({"pakc": True}, {}, "no file or field 'pakc' is taken here: did you mean 'pack'?"),
        ({"pack": True}, {"reprot": "{}"}, "did you mean 'report'?"),
        ({"pack": True}, {"x": "{}"}, "there is 'pack', 'report'"),
    ],
)
def test_fields_that_a_publication_does_not_have(
    api: Api, packs: list[Pack], files: dict[str, bool], data: dict[str, str], said: str
) -> None:
    sent = {name: packs[0].encode() for name in files}
    got = api.call("POST", "/v1/tasks/form/versions", "publish", files=sent, data=data)
    assert (got.status_code, said in got.json()["detail"]) == (422, True), got.text
    assert api.call("GET", "/v1/tasks/form").status_code == 404


@pytest.mark.parametrize(
    ("files", "data", "said"),
    [
        ({"images": True}, {}, "did you mean 'image'?"),
        ({"image": True, "photo": True}, {}, "no file or field 'photo' is taken here: there is 'image'"),
        ({"image": True}, {"task": "one"}, "no file or field 'task' is taken here"),
    ],
)
def test_fields_that_a_question_does_not_have(api: Api, files: dict[str, bool], data: dict[str, str], said: str) -> None:
    got = api.call("POST", "/v1/classify?task=one", files=dict.fromkeys(files, PHOTO), data=data)
    assert (got.status_code, said in got.json()["detail"]) == (422, True), got.text
