"""Whether a photo shows none of a task's classes, as the server tells it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from apis import Api, start
from telling import OWN, STRANGE, noise, telling_pack

from edge_qprompt import Backbone, Classifier
from edge_qprompt.pack import DECISION, Pack
from edge_qprompt.photos import encode_photos

PHOTOS = (OWN.read_bytes(), STRANGE.read_bytes(), noise())
FILES = [("image", (f"{i}.png", photo)) for i, photo in enumerate(PHOTOS)]


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory, packs: list[Pack]) -> Iterator[Api]:
    for running in start(tmp_path_factory.mktemp("store")):
        running.publish("prompt", packs[0])
        running.publish("clothes", telling_pack())
        running.publish("again", telling_pack())
        yield running


def ask(api: Api, query: str = "") -> list[dict[str, Any]]:
    """What the tasks say of each of PHOTOS."""
    got = api.call("POST", f"/v1/classify?{query}", files=FILES)
    assert got.status_code == 200, got.text
    return [image["tasks"] for image in got.json()["images"]]


def test_every_task_tells_or_says_that_it_cannot(telling: Api, nano: Backbone) -> None:
    found = ask(telling)
    assert [{name: seen["unknown"] for name, seen in tasks.items()} for tasks in found] == [
        {"again": unknown, "clothes": unknown, "prompt": None} for unknown in (False, True, True)
    ]
    familiar = Classifier(nano, telling_pack()).familiarity(encode_photos(nano, [OWN, STRANGE]))
    assert [tasks["clothes"]["familiarity"] for tasks in found[:2]] == pytest.approx(familiar.tolist(), abs=1e-3)
    assert {tasks["prompt"]["familiarity"] for tasks in found} == {None}


def test_labels_alone_are_the_same_labels(telling: Api) -> None:
    for told, alone in zip(ask(telling), ask(telling, "unknown=false"), strict=True):
        for name, seen in told.items():
            assert set(alone[name]) == set(seen)
            assert (alone[name]["unknown"], alone[name]["familiarity"]) == (None, None)
            assert [row["label"] for row in alone[name]["labels"]] == [row["label"] for row in seen["labels"]]
            shares = [[row["probability"] for row in each["labels"]] for each in (alone[name], seen)]
            assert shares[0] == pytest.approx(shares[1], abs=1e-4)  # photos may come in other batches


def test_a_threshold_of_the_request_stands_in_place_of_the_packs(telling: Api) -> None:
    own, strange, _ = (tasks["clothes"]["familiarity"] for tasks in ask(telling, "task=clothes"))
    decision = telling_pack().get(DECISION)
    assert decision
    assert strange < decision.unknown <= own
    for threshold, unknown in ((strange - 1e-3, [False, False]), (own + 1e-3, [True, True]), (1e300, [True, True])):
        found = ask(telling, urlencode({"threshold": threshold}))
        for name in ("clothes", "again"):
            assert [tasks[name]["unknown"] for tasks in found[:2]] == unknown
        assert {tasks["prompt"]["unknown"] for tasks in found} == {None}


def test_names_without_photos_end_the_telling(telling: Api) -> None:
    assert {tasks["clothes"]["unknown"] for tasks in ask(telling, "task=clothes&labels=kite")} == {None}
    assert [tasks["clothes"]["unknown"] for tasks in ask(telling, "task=clothes&labels=trouser")] == [False, True, True]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("threshold=nan", "query.threshold: Input should be a finite number"),
        ("threshold=-inf", "query.threshold: Input should be a finite number"),
        ("threshold=1e999", "query.threshold: Input should be a finite number"),
        ("threshold=high", "query.threshold"),
        ("unknown=perhaps", "query.unknown"),
        ("threshold=-1&unknown=false", "leave one of them out"),
        ("threshold=-1&task=prompt", "no pack here can tell whether a photo shows none of its classes"),
        ("threshold=-1&labels=kite", "add no class names"),
    ],
)
def test_thresholds_that_mean_nothing(telling: Api, query: str, said: str) -> None:
    got = telling.call("POST", f"/v1/classify?{query}", files=FILES[:1])
    assert (got.status_code, got.headers["content-type"]) == (422, "application/problem+json")
    assert said in got.json()["detail"]


def test_what_photos_look_like_counts_in_memory(telling: Api, nano: Backbone) -> None:
    ask(telling)
    pack, dims = telling_pack(), nano.manifest.embed_dim
    shown = {row["pack"]: row["bytes"] for row in telling.call("GET", "/v1/residents").json()["residents"]}
    assert shown[pack.pack_id] == len(pack.class_names or ()) * (dims * 4 + 64) + dims * 4
