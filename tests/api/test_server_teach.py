"""A task that is taught one photo more by its server, and what it does not learn from."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
from apis import OTHER, PHOTO, Api, start
from common import DEMO
from fastapi.testclient import TestClient
from safetensors.numpy import load, save
from servers import until
from telling import telling_pack

from edge_qprompt import Backbone, Pack, State, adapt, teach
from edge_qprompt.learn import Adaptation, Encoded, teach_encoded
from edge_qprompt.photos import load_dataset
from server.app import create_app
from server.catalogue import Catalogue
from server.database import Database
from server.settings import Limits, ServerSettings
from server.tokens import Scope, Tokens

SHIRT = (DEMO / "test" / "shirt" / "2.png").read_bytes()
TEACH = "/v1/tasks/clothes/teach"


@pytest.fixture(scope="module")
def learned(nano: Backbone) -> Adaptation:
    return adapt(nano, load_dataset(DEMO).select("base"))


@pytest.fixture
def taught(tmp_path: Path, learned: Adaptation) -> Iterator[Api]:
    """A server with a task that came with its state, in version 1."""
    for running in start(tmp_path / "store"):
        assert push(running, learned.pack, learned.state.encode()).status_code == 201
        yield running


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory, learned: Adaptation) -> Iterator[Api]:
    """The same, for tests that change nothing."""
    for running in start(tmp_path_factory.mktemp("store")):
        assert push(running, learned.pack, learned.state.encode()).status_code == 201
        running.publish("prompt", telling_pack())
        yield running


def push(api: Api, pack: Pack, state: bytes | None, task: str = "clothes", **data: str) -> httpx.Response:
    files = {"pack": ("p.qpk", pack.encode())} | ({} if state is None else {"state": ("p.qpk.state", state)})
    return api.call("POST", f"/v1/tasks/{task}/versions", "publish", files=files, data=data)


def correct(api: Api, photo: bytes, label: str | None, task: str = "clothes", **more: Any) -> httpx.Response:
    query = urlencode({"none": "true"} if label is None else {"label": label})
    return api.call("POST", f"/v1/tasks/{task}/teach?{query}", "publish", content=photo, **more)


def pack_of(api: Api, pack_id: str) -> Pack:
    return Pack.decode(api.call("GET", f"/v1/packs/{pack_id}").content)


@contextmanager
def catalogue(api: Api) -> Iterator[Catalogue]:
    database = Database(str(api.store))
    yield Catalogue(database)
    database.close()


def kept(api: Api, task: str = "clothes") -> State:
    """What the server has of a task."""
    with catalogue(api) as found:
        return State.decode(found.state(task).data)


def log(api: Api) -> list[tuple[str, str | None, str]]:
    entries = api.call("GET", "/v1/audit", "publish").json()["entries"]
    return [(each["action"], each["task"], each["detail"]) for each in entries]


def encoded(api: Api, photo: bytes) -> Encoded:
    """A photo as the server encodes it."""
    row = api.call("POST", "/v1/classify?task=clothes&embeddings=true", content=photo).json()["images"][0]
    return Encoded("the photo", hashlib.sha256(photo).digest(), np.array(row["embedding"], np.float32)[None])


def one_by_one(nano: Backbone, state: State, photos: list[tuple[bytes, str]]) -> State:
    """What the library learns, with each photo encoded alone, as the server does it."""
    for photo in photos:
        state = teach(nano, state, [photo]).state
    return state


# --- what it learns


@pytest.mark.parametrize("label", ["coat", "hand bag", None])
def test_it_is_the_pack_that_the_library_would_learn(taught: Api, nano: Backbone, learned: Adaptation, label: str | None) -> None:
    api = taught
    api.call("PUT", "/v1/tasks/clothes/channels/stable", "promote", json={"version": 1})
    got = correct(api, PHOTO, label)
    facts = got.json()
    wanted = teach_encoded(nano, learned.state, [(encoded(api, PHOTO), label)])
    same = wanted.pack == learned.pack  # one photo of none of the classes may change nothing
    assert got.status_code == (200 if same else 201), got.text
    assert not same or label is None
    pack = pack_of(api, facts["pack"])
    assert pack.encode() == wanted.pack.encode()
    assert teach(nano, learned.state, [(PHOTO, label)]).pack.encode() == pack.encode()
    assert wanted.expected
    assert facts == {
        "task": "clothes",
        "version": 1 if same else 2,
        "pack": wanted.pack.pack_id,
        "base": 1,
        "before": [],
        "expected_accuracy": wanted.expected.accuracy,
        "expected_margin": wanted.expected.margin,
        "notes": list(wanted.notes),
    }
    assert {"coat": [], "hand bag": ["hand bag is a new class"]}.get(str(label), facts["notes"]) == facts["notes"]
    assert api.call("GET", "/v1/tasks/clothes").json()["channels"]["stable"]["version"] == 1  # nothing moves by itself


def test_the_new_version_is_one_like_others(taught: Api) -> None:
    api = taught
    facts = correct(api, PHOTO, "hand bag").json()
    shown = api.call("GET", "/v1/tasks/clothes").json()
    new, old = shown["versions"]
    assert (shown["state"], new["version"], old["version"]) == (2, 2, 1)
    assert (new["accuracy"], new["publisher"]) == (None, "publish")  # nobody has measured it on photos apart
    assert new["report"]["expected_accuracy"] == facts["expected_accuracy"]
    assert new["report"]["images_used"] == sum(new["report"]["per_class"].values()) == 81
    assert sorted(new["class_names"]) == sorted([*old["class_names"], "hand bag"])
    moved = api.call("PUT", "/v1/tasks/clothes/channels/stable", "promote", json={"version": 2})
    assert moved.status_code == 200
    best = api.call("POST", "/v1/classify?task=clothes", content=PHOTO).json()["images"][0]["tasks"]["clothes"]["labels"][0]
    assert best["label"] == "hand bag"


def test_a_photo_that_is_known(taught: Api) -> None:
    api = taught
    assert correct(api, PHOTO, "coat").json()["version"] == 2
    again = correct(api, PHOTO, "coat")
    assert (again.status_code, again.json()["version"], again.json()["before"]) == (200, 2, ["coat"])
    assert again.json()["notes"] == ["the photo is learned as coat already"]
    other = correct(api, PHOTO, None)
    assert (other.status_code, other.json()["version"], other.json()["before"]) == (200, 1, ["coat"])
    back = correct(api, PHOTO, "coat").json()  # the very pack of version 2
    assert (back["version"], back["base"], back["before"]) == (2, 1, [None])
    assert correct(api, OTHER, "coat").json()["base"] == 2
    assert {hashlib.sha256(photo).digest() for photo in (PHOTO, OTHER)} <= kept(api).known


def test_what_was_taught_can_be_taken_back(taught: Api, learned: Adaptation) -> None:
    api = taught
    correct(api, PHOTO, "coat")
    assert correct(api, OTHER, "coat").json()["version"] == 3
    for version in (2, 1):
        done = api.call("POST", "/v1/tasks/clothes/undo", "publish")
        assert (done.status_code, done.json()["version"], done.json()["before"]) == (200, version, [])
    assert kept(api).known == learned.state.known
    nothing = api.call("POST", "/v1/tasks/clothes/undo", "publish")
    assert (nothing.status_code, "there is nothing to undo" in nothing.json()["detail"]) == (422, True)
    assert log(api)[0][2].endswith("undone, from version 2")


def test_photos_that_come_at_once_are_all_learned(taught: Api, nano: Backbone, learned: Adaptation) -> None:
    api = taught
    photos = [(PHOTO, "coat"), (OTHER, "t-shirt"), (SHIRT, "shirt")]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda each: correct(api, *each), photos))
    assert sorted(each.json()["version"] for each in answers) == [2, 3, 4]
    assert kept(api).pack_id == one_by_one(nano, learned.state, photos).pack_id


def test_processes_that_teach_at_once_lose_nothing(taught: Api, nano: Backbone, learned: Adaptation) -> None:
    """Two apps with one store, which know nothing of each other."""
    photos = [path.read_bytes() for path in sorted((DEMO / "test" / "bag").glob("*.png"))[:6]]
    with TestClient(create_app(ServerSettings(str(taught.store))), raise_server_exceptions=False) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        clients = (taught.client, client)
        ready = threading.Barrier(2)

        def teach_all(i: int) -> list[int]:
            headers = {"Authorization": f"Bearer {taught.tokens[Scope.PUBLISH]}"}
            ready.wait(30)
            return [clients[i].post(f"{TEACH}?label=bag", content=photo, headers=headers).status_code for photo in photos[i::2]]

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(teach_all, (0, 1))) == [[201] * 3] * 2
    assert kept(taught).pack_id == one_by_one(nano, learned.state, [(photo, "bag") for photo in photos]).pack_id
    assert taught.call("GET", "/v1/tasks/clothes").json()["versions"][0]["version"] == 7


def test_who_did_what_is_in_the_log_and_the_photo_is_not(taught: Api) -> None:
    api = taught
    facts = correct(api, PHOTO, "coat", headers={"Content-Type": "image/png"}).json()
    correct(api, OTHER, None)
    size = pack_of(api, facts["pack"]).size
    (_, _, last), (action, task, detail), (_, _, first) = log(api)[:3]
    assert (action, task) == ("teach", "clothes")
    assert detail == f"version 2, pack {facts['pack']}, {size} bytes, taught a photo of 'coat', from version 1"
    assert last.endswith("taught a photo of none of the classes, from version 2")
    assert first.endswith("bytes, with its state")
    stored = b"".join(path.read_bytes() for path in api.store.glob("catalogue.sqlite3*"))
    assert hashlib.sha256(PHOTO).digest() in stored
    assert PHOTO[40:200] not in stored  # behind the head, which many PNG share


def test_a_class_keeps_its_name(taught: Api, learned: Adaptation) -> None:
    """As a new folder's name "t-shirt" would be "t shirt"."""
    assert "t-shirt" in learned.state.names
    assert correct(taught, OTHER, "t-shirt").status_code == 201
    assert kept(taught).names == learned.state.names


# --- what it refuses


@pytest.mark.parametrize(
    ("query", "photo", "status", "said"),
    [
        ("label=coat", b"no photo at all", 422, "not"),
        ("label=coat", PHOTO[: len(PHOTO) // 2], 422, "damaged"),
        ("label=coat", b"", 422, "the photo is empty"),
        ("label=coat", bytes(Limits().body_bytes + 1), 413, "larger than 16777216 bytes"),
        ("", PHOTO, 422, "with label=, or that it is none of the classes with none=true"),
        ("label=coat&none=true", PHOTO, 422, "none=true"),
        ("labels=coat", PHOTO, 422, "did you mean 'label'?"),
        ("label=" + "x" * 101, PHOTO, 422, "at most 100 characters"),
        ("label=%20_-", PHOTO, 422, "has no letter"),
        ("label=a%00b", PHOTO, 422, "which is no text"),
        ("label=" + "%F0%9F%A6%86" * 60, PHOTO, 422, "too long"),
    ],
)
def test_bodies_and_labels_that_are_none(still: Api, query: str, photo: bytes, status: int, said: str) -> None:
    got = still.call("POST", f"{TEACH}?{query}", "publish", content=photo)
    assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json"), got.text
    assert said in got.json()["detail"]
    assert len(still.call("GET", "/v1/tasks/clothes").json()["versions"]) == 1


def test_one_photo_at_a_time(taught: Api) -> None:
    files = [("image", ("a.png", PHOTO)), ("image", ("b.png", OTHER))]
    got = taught.call("POST", f"{TEACH}?label=coat", "publish", files=files)
    assert (got.status_code, "Too many files" in got.json()["detail"]) == (422, True)
    named = taught.call("POST", f"{TEACH}?label=coat", "publish", files=files[:1])
    assert named.json()["version"] == 2
    assert taught.call("POST", f"{TEACH}?label=coat", "publish", files=files[:1]).json()["notes"] == [
        "a.png is learned as coat already"
    ]


def test_it_takes_a_token_to_publish_this_task(still: Api) -> None:
    tokens = Tokens(Database(str(still.store)))
    headers = {"Authorization": f"Bearer {tokens.create('gardener', ['publish'], tasks=['flowers*'])}"}
    tokens.database.close()
    for path in (f"{TEACH}?label=coat", "/v1/tasks/clothes/undo"):
        assert still.call("POST", path, content=PHOTO).status_code == 401
        assert still.call("POST", path, "promote", content=PHOTO).status_code == 403
        got = still.call("POST", path, content=PHOTO, headers=headers)
        assert (got.status_code, "this token is for the tasks flowers*" in got.json()["detail"]) == (403, True)
    assert len(still.call("GET", "/v1/tasks/clothes").json()["versions"]) == 1


def test_a_task_of_which_nobody_knows_what_it_was_learned_from(still: Api) -> None:
    assert still.call("GET", "/v1/tasks/prompt").json()["state"] is None
    got = correct(still, PHOTO, "coat", "prompt")
    assert (got.status_code, "`edge-qprompt push --state` sends the state" in got.json()["detail"]) == (404, True)
    assert correct(still, PHOTO, "coat", "nowhere").json()["detail"].startswith("there is no task nowhere")


def test_a_server_with_a_gate_teaches_nothing(tmp_path: Path, learned: Adaptation) -> None:
    report = json.dumps({"held_out_accuracy": 0.9})
    for api in start(tmp_path / "store", gate=0.5):
        assert push(api, learned.pack, learned.state.encode(), report=report).status_code == 201
        got = correct(api, PHOTO, "coat")
        assert (got.status_code, "held-out accuracy 0.500 or more" in got.json()["detail"]) == (422, True)


# --- states that are pushed


def other_settings(state: State, **changes: Any) -> bytes:
    """As nobody could have adapted."""
    settings = copy.copy(state.settings)
    for name, value in changes.items():
        object.__setattr__(settings, name, value)  # which is not asked whether it can be
    return replace(state, settings=settings).encode()


def other_facts(state: State, **changes: Any) -> bytes:
    """With facts that no `State` could have."""
    arrays = load(state.encode())
    facts = json.loads(arrays["facts"].tobytes()) | changes
    return save(arrays | {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)})


def tiled(state: State, times: int) -> bytes:
    """With each photo several times."""
    labels, features = np.tile(state.labels, times), np.tile(state.features, (times, 1, 1))
    return replace(state, digests=np.tile(state.digests, (times, 1)), labels=labels, features=features).encode()


def bad_states(state: State) -> Iterator[tuple[bytes, str]]:
    good = state.encode()
    for data in (good[:-1], b"", b"\xff" * 9, PHOTO, good + b"\0"):
        yield data, "the state is damaged"
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    for wrong in ({"names": 5}, {"names": [1, 2, 3, 4, 5]}, {"history": deep}, {"settings": []}, {"extra": 1}, {"pack_id": None}):
        yield other_facts(state, **wrong), "the state is damaged"
    yield other_facts(state, format=2), "of another version of edge-qprompt"
    yield other_facts(state, before="x" * (2 << 20)), "bytes beside its features, more than 2097152"
    yield replace(state, pack_id="0" * 64).encode(), "the state is of the pack 0000000000000000, not"
    yield replace(state, names=tuple("abcde")).encode(), "send the one beside the pack"
    yield replace(state, fingerprint="0" * 64).encode(), "on another backbone than nano"
    yield replace(state, encoder="int8-3").encode(), "the image encoder int8-3, this server runs"
    views = replace(state, features=np.repeat(state.features, 2, axis=1))
    yield views.encode(), "it has 2 views a photo"
    yield other_settings(views, views=2), "2 views of each photo, one is taken here"
    yield replace(state, features=state.features[:, :, :9]).encode(), "a feature is not of length 1"
    yield replace(state, features=np.full_like(state.features, np.nan)).encode(), "a feature is not of length 1"
    yield tiled(state, 70), "5600 photos of 5 classes with 1 templates take too long"
    yield other_settings(state, method="qcoop"), "learned step by step, by qcoop"
    yield other_settings(state, method="nonsense"), "learned by 'nonsense'"
    yield other_settings(state, budget="much"), "budget is 'much'"
    yield other_settings(state, n_ctx=None), "with None tokens"
    yield other_settings(state, n_ctx=10**9), "too long for the context"
    yield other_settings(state, budget=10), "no pack of 5 classes fits 10 bytes"
    templates = replace(state.settings.method_settings, templates=("a {}",) * 20_000)
    yield other_settings(state, method_settings=templates), "with 20000 templates"
    options = replace(state.settings.method_settings, options={"discriminant_bits": 99})
    yield other_settings(state, method="qgda", method_settings=options), "99"


def test_states_that_are_refused(still: Api, learned: Adaptation) -> None:
    for data, said in bad_states(learned.state):
        got = push(still, learned.pack, data)
        assert (got.status_code, said in got.json()["detail"]) == (422, True), (said, got.text)
    huge = push(still, learned.pack, bytes(Limits().state_bytes + 1))
    assert (huge.status_code, "the state is larger than 8388608 bytes" in huge.json()["detail"]) == (413, True)
    assert push(still, telling_pack(), learned.state.encode()).status_code == 422
    text = still.call("POST", "/v1/tasks/clothes/versions", "publish", files={"pack": b""}, data={"state": "text"})
    assert "a file `state`" in text.json()["detail"]
    assert kept(still).pack_id == learned.pack.pack_id
    assert len(still.call("GET", "/v1/tasks/clothes").json()["versions"]) == 1


def test_a_state_with_features_of_another_width_is_refused(still: Api, learned: Adaptation) -> None:
    narrow = learned.state.features[:, :, :64].astype(np.float32)
    narrow /= np.linalg.norm(narrow, axis=2, keepdims=True)
    got = push(still, learned.pack, replace(learned.state, features=narrow.astype(np.float16)).encode())
    assert (got.status_code, "nothing can be learned from the state" in got.json()["detail"]) == (422, True), got.text


def test_a_state_that_comes_again_takes_the_place_of_the_one_before(taught: Api, learned: Adaptation) -> None:
    correct(taught, PHOTO, "coat")
    again = push(taught, learned.pack, learned.state.encode())
    assert (again.status_code, again.json()["version"]) == (200, 1)
    assert again.json()["warnings"] == [
        "1 photos that clothes was taught here are not in the state that came: they are learned no more"
    ]
    assert kept(taught).known == learned.state.known
    assert push(taught, learned.pack, learned.state.encode()).json()["warnings"] == []
    assert correct(taught, OTHER, "coat").json()["base"] == 1


def test_what_happened_before_a_push_is_nobodys_business(taught: Api, nano: Backbone, learned: Adaptation) -> None:
    changed = teach(nano, learned.state, [(PHOTO, "coat")])
    assert changed.state.history
    assert push(taught, changed.pack, changed.state.encode()).json()["version"] == 2
    assert (kept(taught).history, kept(taught).before) == ((), "")
    assert taught.call("POST", "/v1/tasks/clothes/undo", "publish").status_code == 422


def test_a_full_state_says_so(tmp_path: Path, learned: Adaptation) -> None:
    data = learned.state.encode()
    for limits, said in (
        (Limits(taught_photos=len(learned.state.labels)), "81 photos of 5 classes"),
        (Limits(state_bytes=len(data) + 100), "the state would have"),
    ):
        for api in start(tmp_path / str(limits.state_bytes), limits=limits):
            assert push(api, learned.pack, data).status_code == 201
            got = correct(api, PHOTO, "coat")
            assert (got.status_code, said in got.json()["detail"]) == (422, True), got.text
