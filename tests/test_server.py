"""The HTTP API through the app itself: what each route gives, who may ask, and what is refused how."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import DEMO
from fastapi.testclient import TestClient
from packs import quantized
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from edge_qprompt import Backbone, Classifier
from edge_qprompt.pack import Method, Pack, PackTensor, Precision, Role, names_section
from edge_qprompt.quantizer import Quantized
from server.app import create_app
from server.database import Database
from server.encoder import PhotoEncoder
from server.lru import Lru
from server.metrics import Metrics
from server.residents import Key
from server.settings import Limits, ServerSettings
from server.tokens import Scope, Tokens

PHOTO = (DEMO / "test" / "bag" / "3.png").read_bytes()
OTHER = (DEMO / "test" / "sneaker" / "5.png").read_bytes()
NAMES = ("bag", "sneaker", "coat")


@pytest.fixture(scope="module")
def width() -> int:
    return Backbone.open("nano").manifest.text.width


def make_pack(width: int, seed: int = 0, names: tuple[str, ...] = NAMES) -> Pack:
    """A random context with the embedded backbone's fingerprint."""
    rng = np.random.default_rng(seed)
    ctx = Quantized(np.array([-0.02, 0.02]), rng.integers(0, 2, (4, width), np.uint8), 1)
    tensor = PackTensor.quantized(Role.CTX, ctx)
    fingerprint = Backbone.open("nano").manifest.short_fingerprint
    return Pack(fingerprint, Method.QCOOP, Precision.FP32, (tensor,), (names_section(names),))


@pytest.fixture(scope="module")
def packs(width: int) -> list[Pack]:
    return [make_pack(width, seed) for seed in range(3)]


class Api:
    """A client, and tokens by scope."""

    def __init__(self, client: TestClient, store: Path) -> None:
        self.client, self.store = client, store
        tokens = Tokens(Database(str(store)))
        self.tokens = {scope: tokens.create(scope, [scope]) for scope in Scope}
        tokens.database.close()

    def call(self, method: str, path: str, scope: str | None = None, **more: Any) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if scope:
            headers["Authorization"] = f"Bearer {self.tokens[Scope(scope)]}"
        return self.client.request(method, path, headers=headers, **more)

    def publish(self, task: str, pack: Pack, stable: bool = True, **more: Any) -> dict[str, Any]:
        done = self.call("POST", f"/v1/tasks/{task}/versions", "publish", content=pack.encode(), **more)
        assert done.status_code in (200, 201), done.text
        if stable:
            moved = self.call("PUT", f"/v1/tasks/{task}/channels/stable", "promote", json={"version": done.json()["version"]})
            assert moved.status_code == 200, moved.text
        return done.json()


def start(store: Path, **settings: Any) -> Iterator[Api]:
    with TestClient(create_app(ServerSettings(str(store), **settings)), raise_server_exceptions=False) as client:
        while client.get("/readyz").status_code != 200:
            pass
        yield Api(client, store)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, packs: list[Pack]) -> Iterator[Api]:
    for running in start(tmp_path_factory.mktemp("store")):
        running.publish("one", packs[0])
        running.publish("two", packs[1])
        yield running


@pytest.fixture
def private(tmp_path: Path, packs: list[Pack]) -> Iterator[Api]:
    """A server that shows nothing to those without a token."""
    for running in start(tmp_path / "store", anonymous_read=False, anonymous_classify=False):
        running.publish("one", packs[0])
        yield running


def test_a_published_pack_comes_back_byte_for_byte_and_may_be_kept_for_ever(api: Api, packs: list[Pack]) -> None:
    pack_id = packs[0].pack_id
    got = api.call("GET", f"/v1/packs/{pack_id}")
    assert got.content == packs[0].encode()
    assert got.headers["etag"] == f'"{pack_id}"'
    assert got.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert got.headers["content-type"] == "application/vnd.edge-qprompt.pack"
    known = api.call("GET", f"/v1/packs/{pack_id}", headers={"If-None-Match": f'"{pack_id}"'})
    assert (known.status_code, known.content) == (304, b"")
    head = api.call("HEAD", f"/v1/packs/{pack_id}")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(packs[0].size))


def test_publishing_counts_versions_and_is_idempotent(api: Api, packs: list[Pack]) -> None:
    report = {"held_out_accuracy": 0.5, "loss_by_epoch": [1.0, 0.5]}
    files = {"pack": ("p.qpk", packs[2].encode())}
    done = api.call("POST", "/v1/tasks/three/versions", "publish", files=files, data={"report": json.dumps(report)})
    assert (done.status_code, done.json()["version"]) == (201, 1)
    again = api.call("POST", "/v1/tasks/three/versions", "publish", content=packs[2].encode())
    assert (again.status_code, again.json()) == (200, done.json())
    shown = api.call("GET", "/v1/tasks/three").json()
    assert shown["versions"][0]["report"] == report
    assert shown["versions"][0]["accuracy"] == 0.5
    assert shown["versions"][0]["publisher"] == "publish"
    listed = {task["name"]: task for task in api.call("GET", "/v1/tasks").json()["tasks"]}
    assert (listed["three"]["accuracy"], listed["three"]["channels"]) == (0.5, {})


def test_tasks_come_in_pages(api: Api) -> None:
    first = api.call("GET", "/v1/tasks", params={"limit": 1}).json()
    assert [task["name"] for task in first["tasks"]] == ["one"]
    second = api.call("GET", "/v1/tasks", params={"limit": 100, "after": first["next"]}).json()
    assert "one" not in [task["name"] for task in second["tasks"]]
    assert second["next"] is None


def test_the_statement_of_a_channel_has_an_etag_that_changes_with_it(api: Api, packs: list[Pack]) -> None:
    api.publish("moving", packs[0])
    first = api.call("GET", "/v1/tasks/moving/channels/stable")
    same = api.call("GET", "/v1/tasks/moving/channels/stable", headers={"If-None-Match": first.headers["etag"]})
    assert same.status_code == 304
    api.publish("moving", packs[1])
    moved = api.call("GET", "/v1/tasks/moving/channels/stable", headers={"If-None-Match": first.headers["etag"]})
    assert (moved.status_code, moved.json()["signatures"]) == (200, [])


def test_answers_are_those_of_the_classifier(api: Api, packs: list[Pack], nano: Backbone) -> None:
    got = api.call("POST", "/v1/classify?task=two&task=one&top=3", content=PHOTO).json()
    assert (got["backbone"], got["precision"]) == ("nano", "fp32")
    answers = got["images"][0]["tasks"]
    assert list(answers) == ["two", "one"]
    for name, pack in (("one", packs[0]), ("two", packs[1])):
        wanted = Classifier(nano, pack).classify(PHOTO)
        assert [row["label"] for row in answers[name]["labels"]] == [p.label for p in wanted]
        assert [row["probability"] for row in answers[name]["labels"]] == pytest.approx([p.probability for p in wanted], abs=1e-4)


def test_several_images_added_labels_and_embeddings(api: Api, packs: list[Pack], nano: Backbone) -> None:
    files = [("image", ("bag.png", PHOTO)), ("image", ("shoe.png", OTHER))]
    got = api.call("POST", "/v1/classify?task=one&labels=kite, hat&labels=bag&top=99&embeddings=true", files=files).json()
    assert [image["name"] for image in got["images"]] == ["bag.png", "shoe.png"]
    wanted = Classifier(nano, packs[0], (*NAMES, "kite", "hat")).classify(OTHER, top=99)
    answer = got["images"][1]
    assert [row["label"] for row in answer["tasks"]["one"]["labels"]] == [p.label for p in wanted]
    assert np.linalg.norm(answer["embedding"]) == pytest.approx(1, abs=1e-4)
    assert len(answer["embedding"]) == nano.manifest.embed_dim


def test_without_names_all_tasks_of_a_channel_answer(api: Api) -> None:
    assert {"one", "two"} <= set(api.call("POST", "/v1/classify", content=PHOTO).json()["images"][0]["tasks"])
    assert api.call("POST", "/v1/classify?channel=nightly", content=PHOTO).status_code == 404


def test_a_promotion_is_seen_by_the_next_request(api: Api, packs: list[Pack]) -> None:
    api.publish("swap", packs[0])
    before = api.call("POST", "/v1/classify?task=swap", content=PHOTO).json()["images"][0]["tasks"]["swap"]
    api.publish("swap", packs[1])
    after = api.call("POST", "/v1/classify?task=swap", content=PHOTO).json()["images"][0]["tasks"]["swap"]
    assert (before["version"], after["version"]) == (1, 2)
    assert before["labels"] != after["labels"]


def test_many_clients_at_once_get_their_own_answers(api: Api) -> None:
    alone = {photo: api.call("POST", "/v1/classify?task=one", content=photo).json() for photo in (PHOTO, OTHER)}

    def ask(photo: bytes) -> bool:
        mine = api.call("POST", "/v1/classify?task=one", content=photo).json()["images"][0]["tasks"]["one"]["labels"]
        wanted = alone[photo]["images"][0]["tasks"]["one"]["labels"]
        return all(
            a["label"] == b["label"] and abs(a["probability"] - b["probability"]) < 1e-4
            for a, b in zip(mine, wanted, strict=True)
        )

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, [PHOTO, OTHER] * 12))


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


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"version": 0}', b'{"version": 1, "x": 2}', b'{"version": 1e400}'])
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
        assert (got.status_code, "2" in got.json()["detail"]) == (400, True)
        assert api.call("POST", "/v1/classify?task=a&task=b&task=c", content=PHOTO).status_code == 422


def test_room_is_kept_for_others_and_given_back(tmp_path: Path, packs: list[Pack]) -> None:
    from server.problem import Problem

    for api in start(tmp_path, limits=Limits(pending_images=3, client_images=2)):
        encoder = api.client.app.state.server.encoder
        with encoder.places("me", 2):
            with pytest.raises(Problem) as mine, encoder.places("me", 1):
                pass
            with pytest.raises(Problem) as everyone, encoder.places("you", 2):
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


def test_residents_are_bounded_in_bytes_and_forgotten_ones_come_back(tmp_path: Path, packs: list[Pack], nano: Backbone) -> None:
    one = len(NAMES) * (nano.manifest.embed_dim * 4 + 64)
    for api in start(tmp_path, limits=Limits(residents_bytes=2 * one)):
        for i, pack in enumerate(packs):
            api.publish(f"t{i}", pack)
        answers = [api.call("POST", f"/v1/classify?task=t{i}", content=PHOTO).json() for i in (0, 1, 2, 0)]
        assert answers[0] == answers[3]
        shown = api.call("GET", "/v1/residents").json()
        assert [row["pack"] for row in shown["residents"]] == [packs[0].pack_id, packs[2].pack_id]
        assert shown["bytes"] == 2 * one


def test_lru() -> None:
    lru: Lru[str, int] = Lru(10)
    lru.put("a", 1, 4)
    lru.put("b", 2, 4)
    assert lru.get("a") == 1
    lru.put("c", 3, 4)
    assert (lru.get("b"), lru.get("a"), lru.get("c"), lru.size) == (None, 1, 3, 8)
    lru.put("a", 5, 1)
    lru.put("huge", 0, 11)
    assert (lru.get("a"), lru.get("huge"), lru.size, len(lru)) == (5, None, 5, 2)


def test_a_pack_that_is_not_ready_yet_holds_up_nobody_else(tmp_path: Path, packs: list[Pack]) -> None:
    import threading
    import time

    for api in start(tmp_path):
        api.publish("quick", packs[0])
        residents = api.client.app.state.server.residents
        gate = threading.Event()
        residents._thread.submit(gate.wait, 30)  # the text tower is busy with something long
        api.call("POST", "/v1/classify?task=quick", content=PHOTO)
        with ThreadPoolExecutor(1) as pool:
            fresh = pool.submit(api.call, "POST", "/v1/classify?task=quick&labels=new", content=PHOTO)
            end = time.monotonic() + 10
            while Key(packs[0].pack_id, ("new",)) not in residents._coming and time.monotonic() < end:
                time.sleep(0.01)
            assert api.call("POST", "/v1/classify?task=quick", content=PHOTO).status_code == 200
            assert not fresh.done()
            gate.set()
            assert fresh.result(30).status_code == 200


def test_metrics_tell_what_happened(api: Api) -> None:
    before = _samples(api)
    api.call("POST", "/v1/classify?task=one", content=PHOTO)
    api.call("GET", "/v1/tasks/one")
    after = _samples(api)
    gone_up = {key for key, value in after.items() if value > before.get(key, 0)}
    labels = (("method", "POST"), ("route", "/v1/classify"), ("status", "200"))
    assert ("edge_qprompt_requests_total", labels) in gone_up
    assert ("edge_qprompt_batch_photos_count", ()) in gone_up
    assert ("edge_qprompt_encoder_seconds_sum", ()) in gone_up
    assert ("edge_qprompt_resident_hits_total", ()) in gone_up
    assert after[("edge_qprompt_waiting_photos", ())] == 0
    assert after[("edge_qprompt_residents", ())] >= 1


def _samples(api: Api) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(api.client.get("/metrics").text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_openapi_describes_every_route_with_its_errors(api: Api) -> None:
    described = api.client.get("/openapi.json").json()["paths"]
    assert {"/v1/classify", "/v1/packs/{pack_id}", "/v1/tasks/{task}/channels/{channel}", "/readyz"} <= set(described)
    classify = described["/v1/classify"]["post"]
    assert {"200", "413", "415", "422", "429", "503"} <= set(classify["responses"])
    assert classify["responses"]["200"]["content"]["application/json"]["example"]["backbone"] == "nano"
    assert api.client.get("/docs").status_code == 200


def test_page_and_headers(api: Api) -> None:
    page = api.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    script = api.client.get("/static/app.js")
    assert (script.status_code, script.headers["cache-control"]) == (200, "no-cache")
    assert api.client.get("/static/../app.py").status_code == 404


def test_settings_travel_to_worker_processes() -> None:
    settings = ServerSettings("x", gate=0.5, limits=Limits(batch=3))
    assert ServerSettings.from_json(settings.to_json()) == settings


def test_the_server_does_without_torch() -> None:
    import subprocess

    code = (
        "import sys, server.app, server.commands.serve; print(sorted({'torch', 'open_clip', 'torchvision'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


class SlowLanes:
    """A backbone with two lanes whose encoder notes how many photos each call has, and lets a test hold it."""

    precision, lanes = "fp32", 2

    def __init__(self, nano: Backbone) -> None:
        self.manifest, self.sizes, self.go = nano.manifest, [], threading.Event()

    def encode_images(self, pixels: np.ndarray, *, lane: bool = False) -> np.ndarray:
        self.sizes.append(len(pixels))
        assert lane
        assert self.go.wait(10)
        if pixels[0, 0, 0, 0] > 1e6:
            raise RuntimeError("the encoder is broken")
        return pixels[:, 0, 0, :1]


def test_photos_that_are_ready_together_share_the_lanes_and_batches_grow_when_these_are_busy(nano: Backbone) -> None:
    backbone = SlowLanes(nano)

    async def ask(encoder: PhotoEncoder, count: int) -> list[float]:
        first = [asyncio.ensure_future(encoder._feature(np.full((3, 2, 2), i, np.float32))) for i in range(2)]
        await asyncio.sleep(0.1)
        assert backbone.sizes == [1, 1]
        later = [asyncio.ensure_future(encoder._feature(np.full((3, 2, 2), i, np.float32))) for i in range(2, count)]
        await asyncio.sleep(0.1)
        assert backbone.sizes == [1, 1]  # both lanes are busy
        backbone.go.set()
        found = [float(each[0]) for each in await asyncio.gather(*first, *later)]
        assert not encoder._workers
        assert not encoder._waiting
        return found

    encoder = PhotoEncoder(backbone, Limits(batch=2), Metrics())
    try:
        assert asyncio.run(ask(encoder, 8)) == list(range(8))
    finally:
        encoder.close()
    assert sum(backbone.sizes) == 8
    assert max(backbone.sizes) == 2


def test_an_encoder_that_fails_tells_everyone_and_goes_on(nano: Backbone) -> None:
    backbone = SlowLanes(nano)
    backbone.go.set()
    encoder = PhotoEncoder(backbone, Limits(batch=2), Metrics())

    async def ask() -> None:
        for _ in range(3):  # more often than there are lanes
            with pytest.raises(RuntimeError, match="broken"):
                await encoder._feature(np.full((3, 2, 2), 1e7, np.float32))
        assert float((await encoder._feature(np.full((3, 2, 2), 5, np.float32)))[0]) == 5

    try:
        asyncio.run(ask())
    finally:
        encoder.close()


def test_a_pack_of_another_precision_is_warned_of(tmp_path: Path, width: int) -> None:
    with capture_logs() as log:
        for running in start(tmp_path / "store"):
            fits = running.publish("fits", make_pack(width))
            differs = running.publish("differs", replace(make_pack(width), precision=Precision.INT8))
    assert fits["warnings"] == []
    assert "differs was learned for int8 and runs on fp32" in differs["warnings"][0]
    assert [line["pack"] for line in log if line["event"] == "another precision"] == [differs["pack"]]
