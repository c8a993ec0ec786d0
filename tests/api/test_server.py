"""The HTTP API through the app itself: what each route gives."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from apis import NAMES, OTHER, PHOTO, Api, make_pack, start
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from edge_qprompt import Backbone, Classifier
from edge_qprompt.pack.pack import Pack, Precision
from server.settings import Limits, ServerSettings


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
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100).stdout.strip()
        == "[]"
    )


def test_a_pack_of_another_precision_is_warned_of(tmp_path: Path, width: int) -> None:
    with capture_logs() as log:
        for running in start(tmp_path / "store"):
            fits = running.publish("fits", make_pack(width))
            differs = running.publish("differs", replace(make_pack(width), precision=Precision.INT8))
    assert fits["warnings"] == []
    assert "differs was learned for int8 and runs on fp32" in differs["warnings"][0]
    assert [line["pack"] for line in log if line["event"] == "another precision"] == [differs["pack"]]
