"""`edge-qprompt serve --cors-origin`: which pages of other sites may read the answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from common import Command, fails
from fastapi.testclient import TestClient
from servers import LiveServer

from server.app import create_app
from server.origins import origin
from server.settings import ServerSettings

SITE = "https://shop.example"


def cors(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@contextmanager
def client(folder: Path, *origins: str) -> Iterator[TestClient]:
    """Of an app that fails at /boom."""
    app = create_app(ServerSettings(str(folder / "store"), cors_origins=origins, anonymous_classify=False))

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


ANSWERS = [
    (200, "GET", "/v1/tasks"),
    (401, "POST", "/v1/classify"),
    (404, "GET", "/v1/tasks/gone"),
    (405, "PUT", "/v1/tasks"),
    (422, "GET", "/v1/tasks?limit=0"),
    (500, "GET", "/boom"),
]


@pytest.mark.parametrize("allowed", [(SITE, "http://127.0.0.1:5173"), ("*",)])
def test_pages_of_an_origin_see_every_answer(tmp_path: Path, allowed: tuple[str, ...]) -> None:
    expected = {"access-control-allow-origin": SITE if SITE in allowed else "*"}
    expected |= {"access-control-expose-headers": "ETag, Retry-After, X-Request-ID"}
    with client(tmp_path, *allowed) as site:
        for status, method, path in ANSWERS:
            answer = site.request(method, path, headers={"Origin": SITE})
            assert (answer.status_code, cors(answer)) == (status, expected), path
            assert "Origin" in answer.headers["vary"]
            assert answer.headers["x-request-id"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_a_browser_may_ask_before_it_asks(tmp_path: Path, method: str) -> None:
    wanted = "authorization, content-type, if-none-match, x-request-id"
    headers = {"Origin": SITE, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": wanted}
    with client(tmp_path, SITE) as site:
        answer = site.options("/v1/tasks/one/channels/stable", headers=headers)
        assert answer.status_code == 200
        assert cors(answer)["access-control-allow-origin"] == SITE
        assert method in cors(answer)["access-control-allow-methods"].split(", ")
        taken = {name.lower() for name in cors(answer)["access-control-allow-headers"].split(", ")}
        assert set(wanted.split(", ")) <= taken
        assert "access-control-allow-credentials" not in answer.headers  # no cookies
        assert answer.headers["x-request-id"]  # it is logged as every request is
        cookies = headers | {"Access-Control-Request-Headers": "x-other"}
        assert site.options("/v1/tasks", headers=cookies).status_code == 400


def test_pages_of_other_origins_see_nothing(tmp_path: Path) -> None:
    with client(tmp_path, SITE) as site:
        for other in ("https://evil.example", SITE + ".evil.example", "http://shop.example", SITE + ":8443", "null"):
            asked = {"Origin": other, "Access-Control-Request-Method": "PUT"}
            for answer in (site.get("/v1/tasks", headers={"Origin": other}), site.options("/v1/tasks", headers=asked)):
                assert "access-control-allow-origin" not in answer.headers, other


def test_without_the_option_there_is_no_header(tmp_path: Path) -> None:
    with client(tmp_path) as site:
        for status, method, path in ANSWERS:
            answer = site.request(method, path, headers={"Origin": SITE})
            assert (answer.status_code, cors(answer), answer.headers.get("vary")) == (status, {}, None), path
        asked = {"Origin": SITE, "Access-Control-Request-Method": "GET"}
        assert cors(site.options("/v1/tasks", headers=asked)) == {}


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("*", "*"),
        (SITE, SITE),
        ("HTTPS://Shop.Example:443", SITE),  # as browsers send it
        ("http://127.0.0.1:5173", "http://127.0.0.1:5173"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://shop.example:80", "https://shop.example:80"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_origins(given: str, understood: str) -> None:
    assert origin(given) == understood


@pytest.mark.parametrize(
    "given",
    ["", "null", "shop.example", SITE + "/", SITE + "/path", SITE + ":0", SITE + ":65536", SITE + ":", "https://*.example"],
)
def test_what_is_no_origin_is_wrong_usage(tmp_path: Path, given: str) -> None:
    with pytest.raises(ValueError, match="is no origin: give scheme://host"):
        origin(given)


def test_origins_reach_every_worker(tmp_path: Path, edge_qprompt_command: Command) -> None:
    server = LiveServer.start(
        tmp_path / "store", tmp_path, "--workers", "2", "--cors-origin", SITE, "--cors-origin", "http://b:1"
    )
    try:
        for site in (SITE, "http://b:1"):
            answer = httpx.get(f"{server.url}/v1/tasks", headers={"Origin": site}, timeout=10)
            assert answer.headers["access-control-allow-origin"] == site
    finally:
        assert server.stop() == 0
    fails(edge_qprompt_command("serve", "--store", tmp_path / "no", "--cors-origin", "nowhere"), "'nowhere' is no origin", code=2)
