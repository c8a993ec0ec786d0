"""The description of the API against the app: requests made from it, valid and not, and whether the answers are as described."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
import urllib3
from apis import OTHER, PHOTO, Api
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.pytest.lazy import get_all_tests
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.transport.serialization import Binary

from edge_qprompt.pack import Pack
from server.database import Database
from server.tokens import Scope, Tokens

pytest_plugins = ("api_fixtures",)

URL = "http://testserver"
CONFIG = {
    "seed": 16,
    "base-url": URL,
    "generation": {"max-examples": 8, "deterministic": True, "no-shrink": True, "database": "none"},
    "phases": {"stateful": {"enabled": False}},
}


@pytest.fixture(scope="module", autouse=True)
def in_process(api: Api) -> Iterator[list[int]]:
    """Hands all requests to the app, whose statuses it gives; schemathesis's own way would start the app a second time."""
    statuses: list[int] = []

    def send(self: HTTPAdapter, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        headers = dict(request.headers)
        got = api.client.request(request.method, request.url, headers=headers, content=request.body, follow_redirects=False)
        statuses.append(got.status_code)
        body = io.BytesIO(got.content)
        raw = urllib3.HTTPResponse(body, got.headers.multi_items(), got.status_code, preload_content=False)
        return self.build_response(request, raw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPAdapter, "send", send)
        yield statuses


@pytest.fixture(scope="module")
def token(api: Api) -> str:
    tokens = Tokens(Database(str(api.store)))
    found = tokens.create("everything", list(Scope))
    tokens.database.close()
    return found


@pytest.fixture(scope="module")
def description(api: Api, packs: list[Pack]) -> schemathesis.BaseSchema:
    schemathesis.openapi.format("class-names", st.text("abc ,", max_size=20))
    photos = st.sampled_from([Binary(PHOTO), Binary(OTHER)])
    schemathesis.openapi.format("binary", photos)  # in forms of photos
    for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, photos)
    schemathesis.openapi.media_type("application/vnd.edge-qprompt.pack", st.sampled_from([pack.encode() for pack in packs]))
    return schemathesis.openapi.from_dict(api.client.get("/openapi.json").json(), config=SchemathesisConfig.from_dict(CONFIG))


def mismatches(description: schemathesis.BaseSchema, headers: dict[str, str]) -> dict[str, str]:
    """What does not fit together, by operation."""
    load_all_checks()  # all that are on by default

    def check(case: schemathesis.Case) -> None:
        # no schema can say which envelope is signed, by whom, and for the next serial
        enveloped = isinstance(case.body, dict) and case.body.get("envelope") is not None
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance] if enveloped else [])

    found = {}
    for made in get_all_tests(schema=description, test_func=check, settings=None, given_kwargs={}):
        operation, test = made.ok()
        try:
            test()
        except (Exception, BaseExceptionGroup) as error:
            found[operation.label] = "\n".join(map(str, getattr(error, "exceptions", [error])))
    return found


def test_without_a_token(description: schemathesis.BaseSchema, in_process: list[int]) -> None:
    start = len(in_process)
    assert mismatches(description, {}) == {}
    assert len(in_process) - start > 250
    assert {200, 401, 404, 405, 422} <= set(in_process[start:])


def test_with_a_token(description: schemathesis.BaseSchema, in_process: list[int], token: str) -> None:
    start = len(in_process)
    assert mismatches(description, {"Authorization": f"Bearer {token}"}) == {}
    assert len(in_process) - start > 250
    assert {200, 201, 401, 404, 422} <= set(in_process[start:])
