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
from fastapi.testclient import TestClient
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.pytest.lazy import get_all_tests

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


class InProcess(requests.adapters.HTTPAdapter):
    """Hands requests to the app; schemathesis's own way would start the app a second time."""

    def __init__(self, client: TestClient) -> None:
        super().__init__()
        self._client = client
        self.count = 0

    def send(self, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        self.count += 1
        headers = dict(request.headers)
        got = self._client.request(request.method, request.url, headers=headers, content=request.body, follow_redirects=False)
        body = io.BytesIO(got.content)
        raw = urllib3.HTTPResponse(body, got.headers.multi_items(), got.status_code, preload_content=False)
        return self.build_response(request, raw)


@pytest.fixture(scope="module")
def adapter(api: Api) -> InProcess:
    return InProcess(api.client)


@pytest.fixture(scope="module")
def session(adapter: InProcess) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.mount(URL, adapter)
        yield session


@pytest.fixture(scope="module")
def token(api: Api) -> str:
    tokens = Tokens(Database(str(api.store)))
    found = tokens.create("everything", list(Scope))
    tokens.database.close()
    return found


@pytest.fixture(scope="module")
def description(api: Api, packs: list[Pack]) -> schemathesis.BaseSchema:
    schemathesis.openapi.format("class-names", st.text("abc ,", max_size=20))
    for kind in ("image/jpeg", "image/png", "image/webp"):
        schemathesis.openapi.media_type(kind, st.sampled_from([PHOTO, OTHER]))
    schemathesis.openapi.media_type("application/vnd.edge-qprompt.pack", st.sampled_from([pack.encode() for pack in packs]))
    return schemathesis.openapi.from_dict(api.client.get("/openapi.json").json(), config=SchemathesisConfig.from_dict(CONFIG))


def mismatches(description: schemathesis.BaseSchema, session: requests.Session, **more: Any) -> dict[str, str]:
    """What does not fit together, by operation."""

    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(session=session, **more)

    load_all_checks()
    found = {}
    for made in get_all_tests(schema=description, test_func=check, settings=None, given_kwargs={}):
        operation, test = made.ok()
        try:
            test()
        except (Exception, BaseExceptionGroup) as error:
            found[operation.label] = str(error) or repr(error)
    return found


def test_without_a_token(description: schemathesis.BaseSchema, session: requests.Session, adapter: InProcess) -> None:
    assert mismatches(description, session) == {}


def test_with_a_token(description: schemathesis.BaseSchema, session: requests.Session, adapter: InProcess, token: str) -> None:
    assert mismatches(description, session, headers={"Authorization": f"Bearer {token}"}) == {}
