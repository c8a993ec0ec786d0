"""The HTTP API through the app itself: who may ask, and what is refused how."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apis import PHOTO, Api, make_pack, start
from packs import quantized

from edge_qprompt.pack.pack import Pack
from server.database import Database
from server.problem import HTTPProblem
from server.settings import Limits
from server.tokens import Scope, Tokens

WRITES = [("POST", "/v1/tasks/one/versions", "publish"), ("PUT", "/v1/tasks/one/channels/stable", "promote")]
READS = [
    ("GET", "/v1/tasks", "read"),
    ("GET", "/v1/tasks/one", "read"),
    ("GET", "/v1/tasks/one/channels/stable", "read"),
    ("GET", "/v1/packs/PACK", "read"),
    ("GET", "/v1/residents", "read"),
]
ASKS = [("POST", "/v1/classify?task=one", "classify"), ("GET", "/v1/audit", "publish")]


@pytest.mark.parametrize(("method", "path", "scope"), WRITES + READS + ASKS)
def test_every_route_wants_its_own_scope(private: Api, packs: list[Pack], method: str, path: str, scope: str) -> None:
    path = path.replace("PACK", packs[0].pack_id)
    bodies = {"POST": packs[1].encode() if scope == "publish" else PHOTO, "PUT": b'{"version": 1}'}
    body = {"content": bodies[method]} if method in bodies else {}
    assert private.call(method, path, scope, **body).status_code < 300  # now it is cached, where it can be
    nobody = private.call(method, path, **body)
    assert (nobody.status_code, nobody.headers["www-authenticate"][:6]) == (401, "Bearer")
    for other in set(Scope) - {scope}:
        assert private.call(method, path, other, **body).status_code == 403
    for header in ("Bearer eqp_wrong", "Basic x", "Bearer", "", "Bearer " + "x" * 5000):
        assert private.call(method, path, headers={"Authorization": header}, **body).status_code == 401


def test_a_token_is_never_worse_than_none(api: Api) -> None:
    assert api.call("GET", "/v1/tasks", "publish").status_code == 200
    assert api.call("POST", "/v1/classify?task=one", "publish", content=PHOTO).status_code == 200
    assert api.call("GET", "/v1/tasks", headers={"Authorization": "Bearer eqp_wrong"}).status_code == 401


def test_a_revoked_token_is_refused_at_once_also_for_a_cached_pack(private: Api, packs: list[Pack]) -> None:
    path = f"/v1/packs/{packs[0].pack_id}"
    got = private.call("GET", path, "read")
    assert (got.status_code, got.headers["cache-control"][:7]) == (200, "private")
    tokens = Tokens(Database(str(private.store)))
    tokens.revoke(next(row["id"] for row in tokens.list() if row["name"] == "read"))
    tokens.database.close()
    assert private.call("GET", path, "read").status_code == 401


REFUSED: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no image": ("POST", "/v1/classify?task=one", {"content": b"hello"}, 422, "not an image"),
    "an empty image": ("POST", "/v1/classify?task=one", {"content": b""}, 422, "empty"),
    "a cut image": ("POST", "/v1/classify?task=one", {"content": PHOTO[:200]}, 422, "damaged"),
    "a compressed body": (
        "POST",
        "/v1/classify?task=one",
        {"content": gzip.compress(PHOTO), "headers": {"Content-Encoding": "gzip"}},
        415,
        "Content-Encoding",
    ),
    "a compressed file": ("POST", "/v1/classify?task=one", {"content": gzip.compress(PHOTO)}, 422, "compressed by gzip"),
    "an image in base64": ("POST", "/v1/classify?task=one", {"content": base64.b64encode(PHOTO)}, 422, "base64"),
    "a data URI": (
        "POST",
        "/v1/classify?task=one",
        {"content": b"data:image/png;base64," + base64.b64encode(PHOTO)},
        422,
        "base64",
    ),
    "a format of the command line": ("POST", "/v1/classify?task=one", {"content": b"P3\n1 1\n255\n0 0 0\n"}, 422, "is a PPM"),
    "a form that is none": (
        "POST",
        "/v1/classify?task=one",
        {"content": b"--b\r\nbroken", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        422,
        "form",
    ),
    "a form without a boundary": (
        "POST",
        "/v1/classify?task=one",
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        422,
        "the form cannot be read",
    ),
    "not the type of an image": (
        "POST",
        "/v1/classify?task=one",
        {"content": PHOTO, "headers": {"Content-Type": "text/html"}},
        415,
        "text/html",
    ),
    "a form without a file": ("POST", "/v1/classify?task=one", {"data": {"image": "x"}, "files": {"y": b""}}, 422, "no file"),
    "no such task": ("POST", "/v1/classify?task=nine", {"content": PHOTO}, 404, "no task nine"),
    "an odd name": ("POST", "/v1/classify?task=../etc", {"content": PHOTO}, 422, "task"),
    "top 0": ("POST", "/v1/classify?task=one&top=0", {"content": PHOTO}, 422, "top"),
    "a label too long": ("POST", "/v1/classify?task=one&labels=" + "x" * 101, {"content": PHOTO}, 422, "labels"),
    "a label that does not fit": ("POST", "/v1/classify?task=one&labels=" + "a " * 45, {"content": PHOTO}, 422, "token"),
    "too many labels": ("POST", "/v1/classify?task=one&labels=" + ",".join(map(str, range(65))), {"content": PHOTO}, 422, "64"),
    "no such pack": ("GET", "/v1/packs/" + "0" * 64, {}, 404, "no pack"),
    "no pack's name": ("GET", "/v1/packs/xyz", {}, 422, "pack_id"),
    "no such path": ("GET", "/v2/tasks", {}, 404, "/docs"),
    "no such method": ("DELETE", "/v1/tasks", {}, 405, "DELETE"),
    "a limit of 0": ("GET", "/v1/tasks?limit=0", {}, 422, "limit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_problems_that_say_why(api: Api, case: str) -> None:
    method, path, more, status, said = REFUSED[case]
    got = api.call(method, path, **more)
    assert got.status_code == status, got.text
    assert got.headers["content-type"] == "application/problem+json"
    assert got.json()["status"] == status
    assert said in got.json()["detail"]


def test_packs_that_cannot_be_used_are_refused(api: Api, packs: list[Pack], width: int) -> None:
    foreign = replace(packs[0], fingerprint=b"12345678")
    narrow = replace(packs[0], tensors=(quantized(1, (4, 5)),))
    long = make_pack(width, names=("a " * 60, "b"))
    nameless = replace(packs[0], sections=())
    for pack, said in (
        (foreign, "3132333435363738"),
        (narrow, "shape (4, 5)"),
        (long, "tokens"),
        (nameless, "no class names"),
    ):
        got = api.call("POST", "/v1/tasks/bad/versions", "publish", content=pack.encode())
        assert (got.status_code, said in got.json()["detail"]) == (422, True), got.text
    damaged = packs[0].encode()[:-1]
    assert api.call("POST", "/v1/tasks/bad/versions", "publish", content=damaged).status_code == 422
    assert api.call("GET", "/v1/tasks/bad").status_code == 404


@pytest.mark.parametrize("report", ["[]", "{", "NaN", '{"a": NaN}', "[" * 100_000, '{"a": "\\u0000"}'])
def test_reports_that_are_no_json_object_are_refused(api: Api, packs: list[Pack], report: str) -> None:
    got = api.call("POST", "/v1/tasks/r/versions", "publish", files={"pack": packs[0].encode()}, data={"report": report})
    assert got.status_code == 422
    assert "report" in got.json()["detail"]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"version": 0}', b'{"version": 1, "x": 2}', b'{"version": 1e400}', b'{"version": 2147483648}']
)
def test_promotions_that_say_nothing_are_refused(api: Api, body: bytes) -> None:
    got = api.call("PUT", "/v1/tasks/one/channels/stable", "promote", content=body)
    assert (got.status_code, "version" in got.json()["detail"]) == (422, True)


def test_limits(tmp_path: Path, packs: list[Pack]) -> None:
    limits = Limits(body_bytes=20_000, pixels=500, images=2, tasks=2, pending_images=3, client_images=2)
    for api in start(tmp_path, limits=limits):
        api.publish("one", packs[0])
        got = api.call("POST", "/v1/classify?task=one", content=b"x" * 20_001)
        assert (got.status_code, "20000 bytes" in got.json()["detail"]) == (413, True)
        got = api.call("POST", "/v1/classify?task=one", content=(b"x" * 1000 for _ in range(30)))  # of unknown length
        assert got.status_code == 413
        got = api.call("POST", "/v1/classify?task=one", content=PHOTO)
        assert (got.status_code, "500 pixels" in got.json()["detail"]) == (422, True)
        got = api.call("POST", "/v1/classify?task=one", files=[("image", (f"{i}.png", PHOTO)) for i in range(3)])
        assert (got.status_code, "at most 2 files" in got.json()["detail"]) == (422, True)
        assert api.call("POST", "/v1/classify?task=a&task=b&task=c", content=PHOTO).status_code == 422


def test_room_is_kept_for_others_and_given_back(tmp_path: Path, packs: list[Pack]) -> None:
    for api in start(tmp_path, limits=Limits(pending_images=3, client_images=2)):
        encoder = api.client.app.state.server.encoder
        with encoder.places("me", 2):
            with pytest.raises(HTTPProblem) as mine, encoder.places("me", 1):
                pass
            with pytest.raises(HTTPProblem) as everyone, encoder.places("you", 2):
                pass
        assert (mine.value.status_code, everyone.value.status_code) == (429, 503)
        assert mine.value.headers["Retry-After"] == everyone.value.headers["Retry-After"] == "1"
        with encoder.places("me", 2):
            pass


def test_a_gate_refuses_packs_that_are_not_good_enough(tmp_path: Path, packs: list[Pack]) -> None:
    for api in start(tmp_path, gate=0.8):
        for report, status in ((None, 422), ({"held_out_accuracy": 0.7}, 422), ({"held_out_accuracy": 0.8}, 201)):
            data = {} if report is None else {"report": json.dumps(report)}
            got = api.call("POST", "/v1/tasks/a/versions", "publish", files={"pack": packs[0].encode()}, data=data)
            assert got.status_code == status, got.text
