"""The description of the API against the app: requests made from it, valid and not, and whether the answers are as described."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
import urllib3
from apis import OTHER, PHOTO, Api
from common import DEMO
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.pytest.lazy import get_all_tests
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.transport.serialization import Binary
from telling import telling_pack

from edge_qprompt import Backbone, adapt
from edge_qprompt.pack.pack import Pack
from edge_qprompt.photos import load_dataset
from server.database import Database
from server.routes import answers
from server.settings import Limits
from server.tokens import Scope, Tokens

URL = "http://testserver"
BUSY = 3  # answers of 503 in hundreds, at most
CONFIG = {
    "seed": 16,
    "base-url": URL,
    "generation": {"max-examples": 8, "deterministic": True, "no-shrink": True, "database": "none"},
    "phases": {"stateful": {"enabled": False}},
    # 503 with Retry-After is the right answer where a busy machine cannot decode sixteen photos in time; see BUSY
    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503"]}},
}


@pytest.fixture(scope="module", autouse=True)
def in_process(api: Api) -> Iterator[list[httpx.Response]]:
    """Hands all requests to the app, whose responses it gives; schemathesis's own way would start the app a second time."""
    responses: list[httpx.Response] = []

    def send(self: HTTPAdapter, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        headers = dict(request.headers)
        got = api.client.request(request.method, request.url, headers=headers, content=request.body, follow_redirects=False)
        responses.append(got)
        body = io.BytesIO(got.content)
        raw = urllib3.HTTPResponse(body, got.headers.multi_items(), got.status_code, preload_content=False)
        return self.build_response(request, raw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPAdapter, "send", send)
        yield responses


@pytest.fixture(scope="module")
def token(api: Api) -> str:
    tokens = Tokens(Database(str(api.store)))
    found = tokens.create("everything", list(Scope))
    tokens.database.close()
    return found


@pytest.fixture(scope="module")
def description(api: Api, packs: list[Pack]) -> schemathesis.BaseSchema:
    schemathesis.openapi.format("class-names", st.text("abc ,", max_size=20))
    photos = st.sampled_from([PHOTO, OTHER])
    schemathesis.openapi.format("binary", photos.map(Binary))  # in forms of photos
    for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, photos)
    schemathesis.openapi.media_type("application/vnd.edge-qprompt.pack", st.sampled_from([pack.encode() for pack in packs]))
    for task in ("flowers", "birds"):  # the names of its examples
        api.publish(task, telling_pack())
    learned = adapt(Backbone.open("nano"), load_dataset(DEMO).select("base"))
    files = {"pack": learned.pack.encode(), "state": learned.state.encode()}
    api.call("POST", "/v1/tasks/flowers/versions", "publish", files=files).raise_for_status()
    return schemathesis.openapi.from_dict(api.client.get("/openapi.json").json(), config=SchemathesisConfig.from_dict(CONFIG))


def mismatches(description: schemathesis.BaseSchema, headers: dict[str, str]) -> str:
    """What does not fit together, each with the request that shows it."""
    load_all_checks()  # all that are on by default

    def check(case: schemathesis.Case) -> None:
        # no schema can say which envelope is signed, by whom, and for the next serial, nor which report of a form can be kept,
        # nor that a threshold needs a task that can tell what is unknown, with the names that it has
        vague = isinstance(case.body, dict) and ("pack" in case.body or case.body.get("envelope") is not None)
        # nor which labels are text that fits the encoder, in place of none=true
        vague = vague or "threshold" in (case.query or {}) or case.operation.path.endswith(("/teach", "/undo"))
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance] if vague else [])

    found = []
    for made in get_all_tests(schema=description, test_func=check, settings=None, given_kwargs={}):
        operation, test = made.ok()
        try:
            test()
        except (Exception, BaseExceptionGroup) as error:
            found.append(f"{operation.label}: {error or repr(error)}")
    return "\n\n".join(found)


def lasting(description: schemathesis.BaseSchema, headers: dict[str, str]) -> str:
    """Mismatches that are there a second time too: a machine that is busy for a moment is none of the description."""
    return mismatches(description, headers) and mismatches(description, headers)


def check_statuses(responses: list[httpx.Response], wanted: set[int]) -> None:
    assert len(responses) > 250
    assert wanted <= {response.status_code for response in responses}
    busy = [response.text for response in responses if response.status_code == 503]
    assert len(busy) <= 2 * BUSY, busy


def test_without_a_token(description: schemathesis.BaseSchema, in_process: list[httpx.Response]) -> None:
    start = len(in_process)
    assert lasting(description, {}) == ""
    check_statuses(in_process[start:], {200, 401, 404, 405, 422})


def test_with_a_token(description: schemathesis.BaseSchema, in_process: list[httpx.Response], token: str) -> None:
    start = len(in_process)
    assert lasting(description, {"Authorization": f"Bearer {token}"}) == ""
    check_statuses(in_process[start:], {200, 201, 401, 404, 422})


# --- what chance does not find


def test_packs_and_what_has_not_changed(description: schemathesis.BaseSchema, api: Api) -> None:
    for path, pattern in (
        (f"/v1/packs/{telling_pack().pack_id}", "/v1/packs/{pack_id}"),
        ("/v1/tasks/flowers/channels/stable", "/v1/tasks/{task}/channels/{channel}"),
    ):
        first = requests.get(URL + path)
        again = requests.get(URL + path, headers={"If-None-Match": first.headers["ETag"]})
        assert (first.status_code, again.status_code) == (200, 304)
        for response in (first, again):
            description[pattern]["GET"].validate_response(response)
            assert str(response.status_code) in description[pattern]["GET"].definition.raw["responses"]


def test_answers_have_the_fields_of_their_models_and_no_others(api: Api, packs: list[Pack]) -> None:
    pack = packs[2].encode()
    report = {"report": json.dumps({"held_out_accuracy": 0.5})}
    posted = api.call("POST", "/v1/tasks/fields/versions", "publish", files={"pack": pack}, data=report)
    put = api.call("PUT", "/v1/tasks/fields/channels/stable", "promote", json={"version": 1.0})
    learned = adapt(Backbone.open("nano"), load_dataset(DEMO).select("base"))
    both = {"pack": learned.pack.encode(), "state": learned.state.encode()}
    assert api.call("POST", "/v1/tasks/taught/versions", "publish", files=both).status_code == 201
    taught = api.call("POST", "/v1/tasks/taught/teach?label=bag", "publish", content=PHOTO)
    labels = api.call("POST", "/v1/classify?task=fields&embeddings=true", files={"image": ("a.png", PHOTO)})
    task = api.call("GET", "/v1/tasks/fields").json()
    tasks = api.call("GET", "/v1/tasks?limit=1000").json()
    summary = next(each for each in tasks["tasks"] if each["name"] == "fields")
    residents = api.call("GET", "/v1/residents").json()
    log = api.call("GET", "/v1/audit", "publish").json()
    envelope = api.call("GET", "/v1/tasks/fields/channels/stable")
    photo = labels.json()["images"][0]
    for model, found in (
        (answers.Status, api.call("GET", "/readyz").json()),
        (answers.Published, posted.json()),
        (answers.Taught, taught.json()),
        (answers.Promoted, put.json()),
        (answers.Labels, labels.json()),
        (answers.PhotoLabels, photo),
        (answers.TaskLabels, photo["tasks"]["fields"]),
        (answers.Label, photo["tasks"]["fields"]["labels"][0]),
        (answers.VersionPage, {"next": None} | task),
        (answers.Version, task["versions"][0]),
        (answers.DatedPointer, task["channels"]["stable"]),
        (answers.TaskPage, tasks),
        (answers.TaskSummary, summary),
        (answers.Pointer, summary["channels"]["stable"]),
        (answers.Residents, residents),
        (answers.Resident, residents["residents"][0]),
        (answers.Log, log),
        (answers.Entry, log["entries"][0]),
        (answers.Envelope, envelope.json()),
        (answers.Problem, api.call("GET", "/v1/tasks/nowhere").json()),
    ):
        assert set(found) == set(model.model_fields), model
        model.model_validate(found)


# --- what the description says of every route


def operations(api: Api) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in api.client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_error_is_a_problem(api: Api) -> None:
    found = api.client.get("/openapi.json").json()
    assert not [name for name in found["components"]["schemas"] if "ValidationError" in name]
    for _, path, operation in operations(api):
        errors = {status: each for status, each in operation["responses"].items() if int(status) >= 400}
        assert {"422", "429", "503"} <= set(errors), path
        for each in errors.values():
            assert each["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
        answer = operation["responses"]["200"]["content"]
        assert path == "/metrics" or path.startswith("/v1/packs") or "$ref" in answer["application/json"]["schema"], path
    assert {"400", "408", "409", "413", "415", "507"} <= set(
        found["paths"]["/v1/tasks/{task}/channels/{channel}"]["put"]["responses"]
    )


def test_a_token_is_described_where_one_is_needed(private: Api) -> None:
    asked = 0
    for method, path, operation in operations(private):
        real = path.format(task="one", channel="stable", pack_id="0" * 64)
        status = private.client.request(method, real).status_code
        assert (status == 401) == ("security" in operation), path
        assert {} not in operation.get("security", []), path
        if "security" in operation:
            ((scope,),) = operation["security"][0].values()
            assert private.call(method, real, scope).status_code not in (401, 403), path
            asked += 1
    assert asked == 11


def test_a_token_is_not_asked_for_where_none_is_needed(api: Api) -> None:
    needed = {(method, path) for method, path, each in operations(api) if "security" in each and {} not in each["security"]}
    writes = {("POST", f"/v1/tasks/{{task}}/{what}") for what in ("versions", "teach", "undo")}
    writes |= {("PUT", "/v1/tasks/{task}/channels/{channel}")}
    assert needed == writes | {("GET", "/v1/audit")}


def test_limits_are_those_of_the_server(api: Api) -> None:
    found = api.client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
    by_name = {each["name"]: each["schema"] for each in found["parameters"]}
    assert by_name["task"]["maxItems"] == Limits().tasks
    for number in (Limits().labels, Limits().label_chars, Limits().added):
        assert str(number) in by_name["labels"]["description"]
    assert found["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]["image"]["maxItems"] == Limits().images
