"""What the product leaves behind in a home, and whom it talks to: nothing but its own files, nobody that it was not told to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from common import DEMO, ROOT, make_photos
from servers import free_port, token, wait_until

PHOTO = DEMO / "test" / "bag" / "3.png"
IDLE_SECONDS = 6.0  # onnxruntime looks its collector up within 3
OURS = (".cache/edge-qprompt/", ".local/share/edge-qprompt/")
OUTWARD = re.compile(r"(?:connect|sendto|sendmsg|sendmmsg)\(.*sa_family=AF_(?:INET|INET6|PACKET),")
SWITCH = "ORT_DISABLE_TELEMETRY"


STRACE = ("strace", "-D", "-f", "-q", "-e", "trace=connect,sendto,sendmsg,sendmmsg")  # -D: signals go to the command itself


@dataclass(frozen=True)
class Home:
    """A person's first day with the product, without any setting.

    Attributes:
        folder: what HOME was.
        work: what the commands were told to write is here, outside of HOME.
        traced: strace can run here.
        pids: of the commands, by name.
    """

    folder: Path
    work: Path
    traced: bool
    pids: dict[str, int] = field(default_factory=dict)

    def start(self, name: str, *words: str | Path) -> subprocess.Popen[bytes]:
        """`python WORDS` with nothing in its environment that hides what a stranger's machine would show."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
        tracing = (*STRACE, "-o", str(self.trace(name))) if self.traced else ()
        with (self.work / f"{name}.log").open("wb") as log:
            command = [*tracing, sys.executable, *map(str, words)]
            process = subprocess.Popen(command, env=environment, cwd=self.work, stdout=log, stderr=log)
        self.pids[name] = process.pid
        return process

    def run(self, name: str, *words: str | Path) -> None:
        code = self.start(name, *words).wait(timeout=100)
        assert code == 0, (self.work / f"{name}.log").read_text()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """A server that is asked whether it is ready; its URL."""
        port = free_port()
        process = self.start("serve", "-m", "device_agent", "serve", "--store", self.work / "store", "--port", str(port))
        try:
            wait_until(f"http://127.0.0.1:{port}/readyz", process, self.work / "serve.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)

    def trace(self, name: str) -> Path:
        return self.work / f"{name}.trace"

    def outward(self, name: str) -> list[str]:
        """The system calls of a command that addressed a network; its trace is whole when it tells of the end."""
        end, last = (
            time.monotonic() + 10,
            re.compile(rf"^{self.pids[name]} +\+\+\+ exited with", re.MULTILINE),
        )  # short ids are padded
        while not last.search(text := self.trace(name).read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        assert last.search(text), text[-1000:]
        return [line for line in text.splitlines() if OUTWARD.search(line)]


def can_trace() -> bool:
    """strace is installed, and may look at processes here."""
    tracing = [*STRACE, "-o", os.devnull, sys.executable, "-c", ""]
    return bool(shutil.which("strace")) and not subprocess.run(tracing, stderr=subprocess.DEVNULL, timeout=30).returncode


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home after an import, an adaptation, photos classified by hand and by a server, and some idle seconds of both."""
    home = Home(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work"), can_trace())
    photos = make_photos(home.work, "bag", "coat", each=3)
    idle = f"import time, edge_qprompt; edge_qprompt.Backbone.open('nano').text; time.sleep({IDLE_SECONDS})"
    home.run("import", "-c", f"import exporter; {idle}")
    home.run("adapt", "-m", "device_agent", "adapt", photos, "--epochs", "1", "--shots", "2", "--out", home.work / "p.qpk")
    home.run("classify", "-m", "device_agent", "classify", home.work / "p.qpk", PHOTO)
    home.run("evaluate", "-m", "device_agent", "evaluate", home.work / "p.qpk", photos)
    with home.serve() as url:
        publish(url, token(home.work / "store", "publish", "promote"), home.work / "p.qpk")
        answer = httpx.post(f"{url}/v1/classify", content=PHOTO.read_bytes(), timeout=60)
        assert list(answer.json()["images"][0]["tasks"]) == ["clothes"]
        time.sleep(IDLE_SECONDS)
    return home


def publish(url: str, secret: str, pack: Path) -> None:
    """The pack becomes what the task `clothes` has as stable."""
    with httpx.Client(base_url=f"{url}/v1/tasks/clothes", headers={"Authorization": f"Bearer {secret}"}, timeout=60) as api:
        api.post("/versions", content=pack.read_bytes()).raise_for_status()
        api.put("/channels/stable", json={"version": 1}).raise_for_status()


@pytest.fixture
def traced(lived: Home) -> Home:
    if not lived.traced:
        pytest.skip("strace is not installed, or may not trace here: apt-get install strace")
    return lived


def test_a_home_holds_no_file_but_ours(lived: Home) -> None:
    left = [str(path.relative_to(lived.folder)) for path in lived.folder.rglob("*") if not path.is_dir()]
    assert [name for name in left if not name.startswith(OURS)] == []
    assert left  # the features that adapt keeps: HOME is where the product looks


@pytest.mark.parametrize("name", ["import", "adapt", "classify", "evaluate", "serve"])
def test_nobody_is_addressed_over_a_network(traced: Home, name: str) -> None:
    assert traced.outward(name) == []


def test_a_connection_would_be_seen(traced: Home) -> None:
    asks = "import socket; socket.socket().connect_ex(('127.0.0.1', 9)); socket.socket(2, 2).sendto(b'', ('127.0.0.1', 9))"
    traced.run("asks", "-c", asks)
    assert [line.split()[1].partition("(")[0] for line in traced.outward("asks")] == ["connect", "sendto"]


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_who_wants_to_report_can(given: str | None, kept: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != SWITCH} | ({SWITCH: given} if given else {})
    code = f"import os, edge_qprompt; print(os.environ['{SWITCH}'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == kept


@pytest.mark.parametrize(
    "module", ["edge_qprompt.backbone.session", "exporter.quantize.int8_graph", "exporter.quantize.equalize", "server.app"]
)
def test_onnxruntime_is_imported_when_that_is_decided(module: str) -> None:
    code = f"""if True:
    import importlib, os, sys
    class Watch:
        def find_spec(self, name, *_):
            if name == "onnxruntime":
                assert os.environ.get("{SWITCH}") == "1"
    sys.meta_path.insert(0, Watch())
    importlib.import_module("{module}")
    from edge_qprompt import Backbone
    Backbone.open("nano").text
    assert "onnxruntime" in sys.modules
    """
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("file", "line"), [("Dockerfile", r"    {}=1"), ("deploy/edge-qprompt.service", "Environment={}=1")])
def test_what_is_deployed_decides_it_too(file: str, line: str) -> None:
    """For another program in the same image, or one that imports onnxruntime first."""
    assert line.format(SWITCH) in (ROOT / file).read_text().splitlines()
