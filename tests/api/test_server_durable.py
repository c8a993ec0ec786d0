"""What a server has said is kept: through kill -9, a lost database, two processes at once, a change of version, a stop."""

from __future__ import annotations

import hashlib
import io
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from common import DEMO
from lives import Lives
from many_tasks import random_pack
from PIL import Image
from servers import LiveServer, Postgres, free_port, postgres, token

from edge_qprompt import Backbone, Classifier, Pack
from server.catalogue import Catalogue
from server.database import FILE_NAME, Database
from server.tokens import Tokens

PHOTO = DEMO / "test" / "bag" / "3.png"
PACKS, KILLS = 400, 40
OPEN_SECONDS = 20.0  # of a fork on a slow machine; a tenth of a second is usual
TASKS, RESIDENT_MB = 1000, 300
SWITCHES = 60


def client(url: str, secret: str, **more: Any) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60, **more)


def publish(api: httpx.Client, task: str, data: bytes) -> httpx.Response:
    return api.post(f"/v1/tasks/{task}/versions", content=data)


def promote(api: httpx.Client, task: str, version: int) -> httpx.Response:
    return api.put(f"/v1/tasks/{task}/channels/stable", json={"version": version})


# --- kill -9


class Publisher(threading.Thread):
    """Publishes packs one after the other, each again and again until the server says that it has it.

    Attributes:
        versions: of the packs that were acknowledged, in their order.
        most: how many may be published by now.
        cut: requests that a kill has met.
    """

    def __init__(self, url: str, secret: str, packs: list[bytes]) -> None:
        super().__init__(daemon=True)
        self._url, self._secret, self._packs = url, secret, packs
        self.versions: list[int] = []
        self.most, self.cut = 0, 0
        self.refused: httpx.Response | None = None

    def run(self) -> None:
        with client(self._url, self._secret) as api:
            while len(self.versions) < len(self._packs):
                try:
                    if len(self.versions) < self.most:
                        answer = publish(api, "flowers", self._packs[len(self.versions)])
                    else:
                        time.sleep(0.001)
                        continue
                except httpx.TransportError as error:
                    self.cut += not isinstance(error, httpx.ConnectError)
                    time.sleep(0.005)
                    continue
                if answer.status_code not in (200, 201):
                    self.refused = answer
                    return
                self.versions.append(answer.json()["version"])


def wait_open(api: httpx.Client) -> float:
    """Seconds until the server answers."""
    start = time.monotonic()
    while time.monotonic() - start < OPEN_SECONDS:
        with suppress(httpx.TransportError):
            api.get("/healthz").raise_for_status()
            return time.monotonic() - start
        time.sleep(0.005)
    raise AssertionError("the server does not open after a kill")


@pytest.mark.timeout(600)
def test_what_was_acknowledged_survives_kills(nano: Backbone, tmp_path: Path) -> None:
    rng = random.Random(0)
    packs = [random_pack(nano, number, 2) for number in range(PACKS)]
    ids = [hashlib.sha256(data).hexdigest() for data in packs]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    secret = Tokens(Database(str(tmp_path))).create("test", ["publish", "read"])
    publisher = Publisher(url, secret, packs)
    alive = 0.0
    with Lives.of(tmp_path, port) as lives, client(url, secret) as api:
        publisher.start()
        for kill in range(KILLS):
            lives.start()
            done, publisher.most = len(publisher.versions), PACKS * (kill + 1) // KILLS
            if kill % 5:  # one in five dies while it starts
                wait_open(api)
                if done:
                    chosen = rng.randrange(done)
                    assert api.get(f"/v1/packs/{ids[chosen]}").content == packs[chosen]
                pace = alive / done if done else 0.02
                life = rng.uniform(0, 1.5) * pace * (publisher.most - done)
                alive += life
            else:
                life = rng.uniform(0, 0.1)
            time.sleep(life)
            lives.kill()
            assert publisher.refused is None, publisher.refused
        at_the_last_kill = len(publisher.versions)
        lives.start()
        wait_open(api)
        publisher.most = PACKS
        publisher.join(timeout=120)
        assert len(publisher.versions) == PACKS
        for pack_id, data in zip(ids, packs, strict=True):
            assert api.get(f"/v1/packs/{pack_id}").content == data
        listed = all_versions(api)
    assert at_the_last_kill > PACKS / 2  # the kills were spread over the publishing,
    assert publisher.cut > KILLS / 10  # and met requests
    log = lives.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:3000]
    assert listed == dict(zip(publisher.versions, ids, strict=True))
    assert sorted(listed) == list(range(1, PACKS + 1))
    check_database(tmp_path / FILE_NAME)


def all_versions(api: httpx.Client) -> dict[int, str]:
    """Packs by version, from every page."""
    found: dict[int, str] = {}
    before: int | None = 1 << 30
    while before is not None:
        page = api.get("/v1/tasks/flowers", params={"limit": 100, "before": before}).json()
        found |= {row["version"]: row["pack"] for row in page["versions"]}
        before = page["next"]
    return found


def check_database(path: Path) -> None:
    """Sound, and without anything that was written by half."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        for pack_id, data, size in db.execute("SELECT id, data, size FROM packs"):
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (pack_id, size)
        counts = [db.execute(f"SELECT count(*) FROM {what}").fetchone()[0] for what in ("packs", "versions", "audit")]
        assert counts == [PACKS, PACKS, PACKS + 1]  # and the token's


# --- two processes on one database


@pytest.fixture(scope="module")
def engine() -> Iterator[Postgres]:
    with postgres() as found:
        yield found


@pytest.fixture
def pair(engine: Postgres, tmp_path: Path) -> Iterator[tuple[LiveServer, LiveServer]]:
    store = engine.database(f"pair{time.monotonic_ns()}")
    with ThreadPoolExecutor(2) as pool:  # both bring the schema up to date at once
        first, second = pool.map(lambda _: LiveServer.start(store, tmp_path, "--threads", "1"), range(2))
    yield first, second
    for server in (first, second):
        server.stop()


def test_two_servers_share_a_database_and_one_may_die(nano: Backbone, pair: tuple[LiveServer, LiveServer]) -> None:
    first, second = pair
    secret = token(first.store, "publish", "promote", "read", "classify")
    data = random_pack(nano, 1, 3)
    with client(first.url, secret) as one, client(second.url, secret) as other:
        published = publish(one, "flowers", data).json()
        assert promote(one, "flowers", 1).json()["serial"] == 1
        assert other.get(f"/v1/packs/{published['pack']}").content == data
        answer = other.post("/v1/classify", content=PHOTO.read_bytes()).json()
        assert answer["images"][0]["tasks"]["flowers"]["version"] == 1
        acknowledged = []
        thread = threading.Thread(target=lambda: first.process.wait(timeout=60))
        thread.start()
        with suppress(httpx.TransportError):
            for number in range(2, 500):
                acknowledged.append((publish(one, "flowers", random_pack(nano, number, 2)).json(), number))
                if number == 12:
                    first.process.send_signal(signal.SIGKILL)
        thread.join(60)
        assert len(acknowledged) >= 11
        for facts, number in acknowledged:
            assert other.get(f"/v1/packs/{facts['pack']}").content == random_pack(nano, number, 2)
        assert publish(other, "flowers", random_pack(nano, 1000, 2)).status_code == 201


def test_a_database_that_goes_away_and_comes_back(nano: Backbone, engine: Postgres, pair: tuple[LiveServer, LiveServer]) -> None:
    server = pair[1]
    secret = token(server.store, "publish", "read")
    with client(server.url, secret) as api:
        assert publish(api, "flowers", random_pack(nano, 1, 2)).status_code == 201
        engine.stop()
        try:
            assert api.get("/healthz").status_code == 200
            for answer in (api.get("/readyz"), publish(api, "flowers", random_pack(nano, 2, 2)), api.get("/v1/tasks")):
                assert answer.status_code == 503
                assert int(answer.headers["Retry-After"]) > 0
                assert answer.headers["Content-Type"] == "application/problem+json"
        finally:
            engine.start()
        assert api.get("/readyz").status_code == 200
        assert publish(api, "flowers", random_pack(nano, 2, 2)).json()["version"] == 2
        assert "Traceback" not in server.log.read_text()


def test_two_servers_count_together(nano: Backbone, pair: tuple[LiveServer, LiveServer]) -> None:
    secret = token(pair[0].store, "publish", "promote")
    packs = [random_pack(nano, number, 2) for number in range(40)]
    with client(pair[0].url, secret) as one, client(pair[1].url, secret) as other, ThreadPoolExecutor(8) as pool:
        sides = [one, other] * 20

        def send(call: Callable[..., httpx.Response], side: httpx.Client, what: Any) -> dict[str, Any]:
            answer = call(side, "flowers", what)
            assert answer.status_code in (200, 201), answer.text
            found: dict[str, Any] = answer.json()
            return found

        published = list(pool.map(lambda each: send(publish, *each), zip(sides, packs, strict=True)))
        promoted = list(pool.map(lambda each: send(promote, *each), zip(sides, range(1, 41), strict=True)))
    assert sorted(each["version"] for each in published) == list(range(1, 41))
    assert sorted(each["serial"] for each in promoted) == list(range(1, 41))


# --- many tasks, a change of version, a stop


@pytest.mark.timeout(600)
def test_a_thousand_tasks_in_memory(nano: Backbone, tmp_path: Path) -> None:
    store = tmp_path / "store"
    catalogue = Catalogue(Database(str(store)))
    for number in range(TASKS):
        catalogue.publish(f"task{number}", Pack.decode(random_pack(nano, number, 10)), None, "test")
        catalogue.promote(f"task{number}", "stable", 1, None, "test")
    catalogue.database.close()
    server = LiveServer.start(store, tmp_path)
    try:
        with httpx.Client(base_url=server.url, timeout=300) as api:
            for _ in range(20):
                answer = api.post("/v1/classify?top=1", content=PHOTO.read_bytes())
                while answer.status_code == 503:  # beside other programs a thousand packs take longer than one answer may
                    answer = api.post("/v1/classify?top=1", content=PHOTO.read_bytes())
                assert len(answer.json()["images"][0]["tasks"]) == TASKS
            residents = api.get("/v1/residents").json()["residents"]
        assert (len(residents), {row["labels"] for row in residents}) == (TASKS, {10})
        assert server.memory_mb() < RESIDENT_MB
        assert server.memory_mb("VmHWM") < RESIDENT_MB
    finally:
        server.stop()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    server = LiveServer.start(tmp_path / "store", tmp_path, "--threads", "1")
    yield server
    server.stop()


def test_every_answer_is_wholly_of_one_version(nano: Backbone, live: LiveServer) -> None:
    secret = token(live.store, "publish", "promote")
    packs = [random_pack(nano, number, 4) for number in (1, 2)]
    right = [dict(Classifier(nano, Pack.decode(data)).classify(PHOTO.read_bytes(), 4)) for data in packs]
    assert not right[0].keys() & right[1].keys()
    form = [("image", (f"{i}.png", PHOTO.read_bytes())) for i in range(2)]
    stop, seen = threading.Event(), [0, 0]

    def ask() -> list[dict[str, Any]]:
        answers = []
        with httpx.Client(base_url=live.url, timeout=60) as api:
            while not stop.is_set():
                answers += api.post("/v1/classify?task=flowers&top=4", files=form).raise_for_status().json()["images"]
        return answers

    with client(live.url, secret) as api, ThreadPoolExecutor(4) as pool:
        for data in packs:
            publish(api, "flowers", data)
        promote(api, "flowers", 1)
        asking = [pool.submit(ask) for _ in range(4)]
        for switch in range(SWITCHES):
            assert promote(api, "flowers", 2 - switch % 2).status_code == 200
            time.sleep(0.02)
        stop.set()
        for answers in (each.result() for each in asking):
            assert len(answers) % 2 == 0
            for one, other in zip(answers[::2], answers[1::2], strict=True):
                found = one["tasks"]["flowers"]
                assert other["tasks"]["flowers"]["version"] == found["version"]
                labels = {row["label"]: row["probability"] for row in found["labels"]}
                assert labels == pytest.approx(right[found["version"] - 1], abs=1e-4)
                seen[found["version"] - 1] += 1
    assert min(seen) > 5


def test_a_stop_answers_what_was_accepted(live: LiveServer) -> None:
    with io.BytesIO() as file, Image.open(PHOTO) as image:
        image.convert("RGB").resize((4000, 4000)).save(file, "JPEG")  # a quarter of a second to decode
        large = file.getvalue()
    form = [("image", (f"{i}.jpg", large)) for i in range(2)]
    secret = token(live.store, "publish", "promote")
    with client(live.url, secret) as api:
        publish(api, "flowers", random_pack(Backbone.open("nano"), 1, 2))
        promote(api, "flowers", 1)
        with ThreadPoolExecutor(10) as pool:
            # so few that beside busy processes too all are done in the seconds that a stop leaves them
            requests = [pool.submit(httpx.post, live.url + "/v1/classify", files=form, timeout=60) for _ in range(3)]
            while "edge_qprompt_waiting_photos 6.0" not in api.get("/metrics").text:
                assert not any(each.done() for each in requests), "the photos are too little work for this machine"
                time.sleep(0.01)
            live.process.send_signal(signal.SIGTERM)
            answers = [each.result() for each in requests]
    assert [(answer.status_code, len(answer.json().get("images", ()))) for answer in answers] == [(200, 2)] * 3
    assert live.process.wait(timeout=30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(live.url + "/healthz")
    assert "Traceback" not in live.log.read_text()


def test_a_server_of_two_workers(nano: Backbone, tmp_path: Path) -> None:
    server = LiveServer.start(tmp_path / "store", tmp_path, "--workers", "2", "--threads", "1")
    try:
        secret = token(server.store, "publish", "promote", "classify")
        with client(server.url, secret) as api:
            publish(api, "flowers", random_pack(nano, 1, 2))
            promote(api, "flowers", 1)
        in_a_row, end = 0, time.monotonic() + 60
        while in_a_row < 20 and time.monotonic() < end:  # one worker may be ready long before the other
            in_a_row = in_a_row + 1 if httpx.get(server.url + "/readyz").status_code == 200 else 0
        for _ in range(10):  # each on a connection of its own, so on either worker
            assert httpx.post(server.url + "/v1/classify", content=PHOTO.read_bytes(), timeout=60).status_code == 200
        assert (
            'edge_qprompt_requests_total{method="POST",route="/v1/classify",status="200"} 10.0'
            in httpx.get(server.url + "/metrics").text
        )
    finally:
        assert server.stop() == 0
