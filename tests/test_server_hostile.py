"""A live server against hostile requests: none of them is a 500, none kills it, none takes more memory than its limits say.

`hostile.py` makes the requests. After each family the server is asked something honest, and has to answer rightly.
"""

from __future__ import annotations

import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hostile
import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Response
from hostile import CLOSE, HOST, PHOTO, classify, quoted, request, statuses, talk
from servers import LiveServer, free_port, token

from edge_qprompt import Backbone, Pack
from edge_qprompt.pack import Method, Precision, Section, Tag, names_section
from server import protocol
from server.settings import Limits

MB = 10**6
BODY_SECONDS = 3
BODY_MB, MEGAPIXELS, CACHE_MB = 4, 4, 8
OPTIONS = ("--max-body-mb", BODY_MB, "--max-megapixels", MEGAPIXELS, "--cache-mb", CACHE_MB, "--body-seconds", BODY_SECONDS)
IDLE = 1200  # connections, more than the 1,000 that a server takes
FAMILY = 24  # requests a family
OPERATE = Path(__file__).parent.parent / "docs" / "operate.md"
FORMULA = (
    "start + 4 x 64 MiB + cores x 24 bytes x pixels + 6 x cache + 0.4 MB x connections + 64 MiB + 10 MB x batch x cores"
    " + 0.6 MB x queue"
)

Send = Callable[..., list[int]]


def clothes(nano: Backbone, template: str = "a photo of a {}.") -> Pack:
    """Ready without any learning, and good enough for one photo of a bag."""
    sections = (Section(Tag.TEMPLATE, template.encode()), names_section(("bag", "ankle boot", "t-shirt")))
    return Pack(nano.manifest.short_fingerprint, Method.ZERO_SHOT, Precision.FP32, (), sections)


@dataclass(frozen=True)
class Target:
    """The server under attack.

    Attributes:
        most_mb: that its limits allow it, by the formula of docs/operate.md.
    """

    server: LiveServer
    token: str
    most_mb: float
    client: httpx.Client

    @property
    def authorised(self) -> str:
        return f"Authorization: Bearer {self.token}"

    def honest(self, method: str, path: str, **more: object) -> httpx.Response:
        return self.client.request(method, path, **more)  # type: ignore[arg-type]

    def send(self, requests: list[bytes], at_once: int = 8) -> list[int]:
        """Send each on a connection of its own; the status of each answer."""
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(lambda each: talk(self.server.port, [each]), requests))
        assert len(answers) == len(requests)
        for sent, received in zip(requests, answers, strict=True):
            wrong = [status for status in statuses(received) if status >= 500 and status != 503]
            assert not wrong, (sent[:500], received[:500])
        return [status for received in answers for status in statuses(received)]

    def check(self) -> None:
        """Alive, no larger than allowed, nothing unforeseen in the log, and a photo gets its label."""
        assert self.server.process.poll() is None, self.server.log.read_text()[-3000:]
        answer = self.honest("POST", "/v1/classify?task=clothes", content=PHOTO.read_bytes())
        assert answer.status_code == 200, answer.text
        assert answer.json()["images"][0]["tasks"]["clothes"]["labels"][0]["label"] == "bag"
        assert "edge_qprompt_waiting_photos 0.0" in self.honest("GET", "/metrics").text
        log = self.server.log.read_text()
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:5000]
        assert self.server.memory_mb("VmHWM") < self.most_mb


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, nano: Backbone) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    server = LiveServer.start(folder / "store", folder, *map(str, OPTIONS))
    secret = token(folder / "store", "read", "classify", "publish", "promote")
    start = server.memory_mb()
    limits = Limits()
    most = start + 4 * 67 + (os.cpu_count() or 1) * 24 * MEGAPIXELS + 6 * 1.05 * CACHE_MB + 0.4 * limits.connections + 67
    most += 10 * limits.batch * (os.cpu_count() or 1) + 0.6 * limits.pending_images
    client = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)
    found = Target(server, secret, most, client)
    assert found.honest("POST", "/v1/tasks/clothes/versions", content=clothes(nano).encode()).status_code == 201
    assert found.honest("PUT", "/v1/tasks/clothes/channels/stable", json={"version": 1}).status_code == 200
    yield found
    client.close()
    assert server.stop() == 0


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "target" in request.fixturenames:
        request.getfixturevalue("target").check()


def test_the_memory_that_limits_imply_is_documented() -> None:
    assert FORMULA in OPERATE.read_text()


# --- photos


def test_heads_that_claim_too_many_pixels(target: Target) -> None:
    rng = random.Random(1)
    found = target.send([classify(hostile.bomb(rng)) for _ in range(FAMILY)])
    assert found == [422] * FAMILY


def test_damaged_photos(target: Target) -> None:
    rng = random.Random(2)
    bodies = [hostile.damaged(rng, hostile.photo(kind)) for kind in hostile.FORMATS for _ in range(FAMILY // 6)]
    found = target.send([classify(body) for body in bodies])
    assert set(found) <= {200, 422}
    assert len(found) == len(bodies)
    assert 422 in found


def test_small_files_that_are_much_work(target: Target) -> None:
    rng = random.Random(3)
    start = time.monotonic()
    found = target.send([classify(hostile.heavy(rng, 2000)) for _ in range(FAMILY)])
    assert set(found) <= {200, 422}
    assert len(found) == FAMILY
    assert time.monotonic() - start < 60  # 30,000 scans alone would be ten minutes of a core


def test_bytes_that_are_no_photo_under_any_name(target: Target) -> None:
    rng = random.Random(4)
    types = (
        "image/jpeg",
        "image/svg+xml",
        "",
        "application/json",
        "text/html",
        "image/" + "x" * 5000,
        "\xff/\xfe",
        ";",
        "multipart/form-data",
    )
    found = target.send([classify(rng.randbytes(rng.randrange(1, 100_000)), rng.choice(types)) for _ in range(FAMILY)])
    assert set(found) <= {400, 415, 422}
    assert len(found) == FAMILY


# --- forms and names


def test_broken_forms(target: Target) -> None:
    rng = random.Random(5)
    found = target.send(
        [classify(body, media_type) for media_type, body in (hostile.broken_form(rng) for _ in range(2 * FAMILY))]
    )
    assert set(found) <= {200, 400, 413, 415, 422}
    assert len(found) == 2 * FAMILY


def test_a_form_in_a_slow_character_set_is_refused_at_once(target: Target) -> None:
    body = hostile.form(hostile.part('form-data; name="x"', b"a" * 3_000_000))  # minutes, were it decoded
    start = time.monotonic()
    assert target.send([classify(body, "multipart/form-data; boundary=b; charset=punycode")]) == [415]
    assert time.monotonic() - start < 5


def test_names_that_are_paths_or_worse(target: Target) -> None:
    paths = ["/v1/tasks/{}", "/v1/tasks/{}/channels/stable", "/v1/packs/{}", "/static/{}", "/{}", "/v1/classify?task={}"]
    wild = [
        *hostile.NAMES,
        "\ud800",
        "..",
        ".",
        "clothes\n",
        "Clothes",
        "clothes/../clothes",
        "../app.py",
        "../../pyproject.toml",
    ]
    rng = random.Random(6)
    targets = [path.format(quoted(name)) for path in paths for name in rng.sample(wild, 8)]
    targets += ["/static/..%2fapp.py", "/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/%00"]
    for each in targets:
        received = talk(target.server.port, [request("GET", each)])
        assert statuses(received)[0] in {400, 404, 405, 422}, each
        assert b"root:" not in received and b"import " not in received and b"[project]" not in received


# --- heads and lengths


def test_odd_heads(target: Target) -> None:
    rng = random.Random(7)
    found = target.send([hostile.odd_head(rng) for _ in range(2 * FAMILY)])
    assert set(found) <= {100, 200, 400, 404, 405, 415, 417, 422}
    assert 400 in found


def test_lengths_that_lie_and_requests_inside_others(target: Target) -> None:
    rng = random.Random(8)
    found = target.send([hostile.lying_length(rng) for _ in range(2 * FAMILY)])
    assert set(found) <= {400, 413, 422}  # 200 would be the smuggled request
    assert 400 in found


# --- JSON and packs


def test_odd_promotions(target: Target) -> None:
    rng = random.Random(9)
    path = "/v1/tasks/clothes/channels/stable"
    found = target.send([request("PUT", path, hostile.odd_promotion(rng), target.authorised) for _ in range(FAMILY)])
    assert set(found) <= {400, 404, 413, 422}
    assert target.honest("GET", "/v1/tasks/clothes").json()["channels"]["stable"]["serial"] == 1


def test_what_is_kept_of_odd_reports_can_be_read_again(target: Target, nano: Backbone) -> None:
    rng = random.Random(10)
    found = []
    for i in range(FAMILY):
        pack, report = clothes(nano, f"reported {i} {{}}.").encode(), hostile.odd_report(rng)
        form = hostile.form(
            hostile.part('form-data; name="pack"; filename="p"', pack), hostile.part('form-data; name="report"', report.encode())
        )
        headers = ("Content-Type: multipart/form-data; boundary=b", target.authorised)
        found += target.send([request("POST", "/v1/tasks/reported/versions", form, *headers)])
        assert target.honest("GET", "/v1/tasks").status_code == 200
        if 201 in found:
            assert target.honest("GET", "/v1/tasks/reported").status_code == 200, report[:200]
    assert set(found) == {201, 422}


def test_fuzzed_packs(target: Target, nano: Backbone) -> None:
    rng = random.Random(11)
    whole = clothes(nano).encode()
    bodies = [hostile.damaged(rng, whole) for _ in range(FAMILY)] + [
        rng.randbytes(500),
        b"\x89QPK",
        whole * 2,
        b"\x89QPK" + b"\xff" * 10**6,
    ]
    found = target.send([request("POST", "/v1/tasks/fuzzed/versions", body, target.authorised) for body in bodies])
    assert found == [422] * len(bodies)


# --- queries and tokens


def test_odd_queries(target: Target) -> None:
    photo = PHOTO.read_bytes()
    labels = ["x" * 101, "\x00", "a\nb", "\u202e", "\ud800", ",".join(map(str, range(65))), "\u2028", "\x1b[31m", "e\u0301"]
    queries = [f"?task=clothes&labels={quoted(label)}" for label in labels]
    queries += [f"?task=clothes&top={top}" for top in (10**30, "9" * 5000, 0, -1, "1.5", "NaN", "%00", "\xb2")]
    queries += [
        "?" + "&".join(["task=clothes"] * 1000),
        "?" + "&".join(f"task=t{i}" for i in range(5000)),  # 50 kB
        "?" + "&".join(f"task={i}" for i in range(1001)),
        "?task=nobody",
        "?task=" + "a" * 15_000,
    ]
    queries += [
        "?" + "&" * 15_000,
        "?channel=../stable",
        "?channel=",
        "?embeddings=perhaps",
        "?%ff=%ff&task=%",
        "?task=clothes;drop",
    ]
    answers = {query: target.send([classify(photo, query=query)]) for query in queries}
    assert {status for found in answers.values() for status in found} == {200, 400, 404, 422}
    for good in (f"?task=clothes&top={10**30}", f"?task=clothes&labels={quoted('e' + chr(0x301))}"):
        assert answers[good] == [200]
    lists = [f"/v1/tasks?limit={limit}" for limit in ("0", 10**30, "x")] + [
        "/v1/tasks?after=" + "a" * 10_000,
        "/v1/tasks?after=%00",
    ]
    assert set(target.send([request("GET", each) for each in lists])) <= {200, 422}


def test_wrong_tokens(target: Target) -> None:
    wrong = [
        "",
        "eqp_",
        target.token[:-1],
        target.token + "x",
        "eqp_" + "a" * 10_000,
        "\xff\xfe",
        "\x01",
        "' OR 1=1 --",
        "a b c",
        "null",
    ]
    headers = [f"Authorization: {kind} {secret}" for kind in ("Bearer", "Basic", "bearer", "") for secret in wrong]
    found = target.send([request("POST", "/v1/tasks/clothes/versions", b"x", header) for header in headers])
    assert set(found) <= {400, 401}
    assert len(found) == len(headers)
    twice = request("GET", "/v1/audit", b"", "Authorization: Bearer wrong", target.authorised)
    assert target.send([twice])[0] == 401


# --- senders and readers that take their time, and many of them


def test_endless_and_slow_senders(target: Target) -> None:
    start = b"POST /v1/classify HTTP/1.1\r\n" + HOST + b"Content-Type: "
    chunked, long = b"Transfer-Encoding: chunked\r\n\r\n", b"Content-Length: 100000\r\n\r\n"
    form = b"multipart/form-data; boundary=b\r\n" + chunked
    piece = hostile.part('form-data; name="image"; filename="x"', b"x" * 60_000)
    endless = [
        (start + b"image/png\r\n" + chunked, b"10000\r\n" + b"x" * 65536 + b"\r\n", 500, 0.0),
        (start + b"image/png\r\n" + chunked, b"1\r\nx\r\n" * 1000, 20_000, 0.0),
        (start + form, b"%x\r\n" % len(piece) + piece + b"\r\n", 500, 0.0),
        (b"GET /healthz HTTP/1.1\r\n" + HOST + chunked, b"10000\r\n" + b"x" * 65536 + b"\r\n", 500, 0.0),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST + chunked, b"1\r\nx\r\n" * 1000, 20_000, 0.0),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST + chunked, b"no length\r\n", 3, 0.25),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 65536, 500, 0.0),
    ]
    slow = [
        (start + b"image/png\r\n" + long, b"x", 100, 0.25),
        (start + b"image/png\r\n" + chunked, b"1\r\nx\r\n", 100, 0.25),
        (start + form, b"1\r\n-\r\n", 100, 0.25),
        (b"GET /heal", b"t", 100, 0.25),
        (b"GET /healthz HTTP/1.1\r\n", b"X: y\r\n", 100, 0.25),
        (b"", b"\r\n", 100, 0.25),
        (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n", b"G", 100, 0.25),
    ]
    began = time.monotonic()
    with ThreadPoolExecutor(len(endless + slow)) as pool:

        def run(head: bytes, piece: bytes, most: int, pause: float) -> list[int]:
            return statuses(talk(target.server.port, hostile.endless(head, piece, most), pause=pause))

        found = list(pool.map(lambda case: run(*case), endless + slow))
    assert time.monotonic() - began < 40  # a quarter of a second, a hundred times, would do it within 25 and be answered
    assert {status for each in found for status in each} <= {200, 400, 404, 408, 413, 422}
    assert [408] in found


def test_more_bodies_than_memory_is_given_to(target: Target) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: %d\r\n\r\n" % (BODY_MB << 20)
    body = [head, bytes((BODY_MB << 20) - 1)]  # one byte short
    with ThreadPoolExecutor(40) as pool:
        found = [statuses(each) for each in pool.map(lambda _: talk(target.server.port, body), range(40))]
    assert {status for each in found for status in each} == {408, 503}
    assert target.send([classify(bytes(3 << 20))]) == [422]  # there is room again


def test_many_idle_connections(target: Target) -> None:
    address = ("127.0.0.1", target.server.port)
    links = [socket.create_connection(address, timeout=30) for _ in range(IDLE)]
    try:
        for link in links[::3]:
            link.sendall(b"GET /")
        received = talk(target.server.port, [request("GET", "/v1/tasks")])
        assert statuses(received) == [503]
        assert b"retry-after: " in received and b"application/problem+json" in received
        time.sleep(protocol.HEAD_SECONDS + 1)
        assert target.send([request("GET", "/v1/tasks")]) == [200]
        assert all(not link.recv(1) for link in links)  # hung up on
    finally:
        for link in links:
            link.close()


def test_names_added_to_many_tasks_are_bounded(target: Target, nano: Backbone) -> None:
    names = ",".join(f"label {i}" for i in range(60))
    for i in range(70):
        path = f"/v1/tasks/many{i}"
        assert target.honest("POST", path + "/versions", content=clothes(nano, f"many {i} {{}}.").encode()).status_code == 201
        assert target.honest("PUT", path + "/channels/stable", json={"version": 1}).status_code == 200
    assert target.send([classify(PHOTO.read_bytes(), query=f"?labels={quoted(names)}")]) == [422]  # 60 x 70 names or more
    assert target.send([classify(PHOTO.read_bytes())]) == [200]


# --- what a live server would take too long to show


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a small server with the real protocol, and short deadlines."""
    monkeypatch.setattr(protocol, "TAKE_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "MAX_UNSENT_BYTES", 40 * MB)
    app = FastAPI()

    @app.get("/large")
    def large() -> Response:
        return Response(bytes(20 * MB))

    config = uvicorn.Config(app, port=free_port(), http=protocol.DeadlineProtocol, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield config.port
    server.should_exit = True
    thread.join()


def large(port: int) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", port), timeout=10)
    link.sendall(request("GET", "/large"))
    return link


def taken(link: socket.socket, pause: float = 0.0) -> int:
    """Bytes until the end."""
    count = 0
    try:
        while part := link.recv(1 << 20):
            count += len(part)
            time.sleep(pause)
    except ConnectionError:
        pass
    return count


def test_who_does_not_take_an_answer_is_hung_up_on(quick: int) -> None:
    with large(quick) as idle, large(quick) as steady:
        assert taken(steady, pause=0.05) > 20 * MB  # slower than the deadline, but it takes something all the time
        assert 0 < taken(idle) < 20 * MB


def test_untaken_answers_are_bounded_together(quick: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "TAKE_SECONDS", 60)
    links = []
    for _ in range(6):
        links.append(large(quick))
        time.sleep(0.2)
    counts = [taken(link) for link in reversed(links)]
    assert counts[0] > 20 * MB  # the last
    assert counts[-1] < 20 * MB  # the first
    assert sum(count > 20 * MB for count in counts) == 2
    for link in links:
        link.close()


def test_nothing_of_this_is_a_secret(target: Target) -> None:
    """The log has one JSON object a line, whatever was sent."""
    lines = target.server.log.read_text().splitlines()
    assert len(lines) > 300
    assert all(re.match(r'\{"', line) for line in lines), next(line for line in lines if not line.startswith("{"))
