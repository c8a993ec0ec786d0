"""What the server adds to the encoder, and what it does when more is asked of it than it can.

    python benchmarks/serve_load.py                                    nano
    python benchmarks/serve_load.py --backbone nano exports/b32        and a ViT-B/32
    python benchmarks/serve_load.py --against OLD                      throughput beside another checkout's, in turn

Server, clients and the raw encoder are processes of their own on this machine; the raw encoder and the server work in turn,
never at once. The raw encoder decodes the same photos and encodes them in the server's batches, on as many lanes.
Clients send one photo a request.

* throughput: of as many clients as fill three batches a lane, over the raw encoder's.
* p99 at 80 %: open loops at 0.8 of that throughput, with even gaps and with random ones (exponential), over the time that one
  full batch takes in the raw encoder.
* overload: an open loop at three times the throughput. Recovery is the time until a photo is labelled within four batch times.
* download: packs of a few hundred bytes on 16 connections, over a FastAPI route that returns nothing, under the same uvicorn.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timing import publish

import edge_qprompt
from edge_qprompt import Backbone, Pack
from edge_qprompt.backbone.session import cores
from edge_qprompt.pack.pack import ZERO_SHOT, Precision, names_section
from edge_qprompt.pack.section import TEMPLATE
from server.settings import Limits

HERE = Path(__file__).parent
DEMO = Path(edge_qprompt.__file__).parent / "data" / "fashion_mnist" / "test"
BATCH = Limits().batch
TASK = "clothes"
DOWNLOADS = 16  # connections
RECOVERY_SECONDS = 30.0
CLIENTS = 3 * BATCH * cores()  # of the closed loop: three batches a lane


@dataclass(frozen=True)
class Running:
    """A server's process and its port."""

    process: subprocess.Popen[bytes]
    port: int

    def get(self, path: str) -> bytes:
        """The body of a GET's answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return bytes(answer.read())

    def resident_mb(self) -> float:
        """Memory of the process now, 10^6 bytes."""
        found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        if found is None:
            raise SystemExit("there is no VmRSS in /proc: this needs Linux")
        return int(found[1]) * 1024 / 1e6


@contextmanager
def running(command: list[str], port: int, ready: str) -> Iterator[Running]:
    """A server, from when it is ready to the end."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        server = Running(process, port)
        while True:
            try:
                server.get(ready)
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} ended with {process.returncode}") from None
                time.sleep(0.1)
        try:
            yield server
        finally:
            process.terminate()


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Raw:
    """The raw encoder in a process of its own, which waits while it is not asked."""

    def __init__(self, backbone: str, photos: list[Path]) -> None:
        command = [sys.executable, str(HERE / "raw_encoder.py"), backbone, str(BATCH), *map(str, photos)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, seconds: float) -> tuple[float, float]:
        """Photos a second, and median seconds of a batch."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        rate, batch = map(float, self._process.stdout.readline().split())
        return rate, batch

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def load(port: int, requests: list[bytes], seconds: float, **more: float) -> subprocess.Popen[str]:
    """A client that has begun; `result` waits for it. See `load_client` for what it takes."""
    job: dict[str, Any] = {"port": port, "seconds": seconds, "connections": 0, **more}
    job["requests"] = [base64.b64encode(each).decode() for each in requests]
    client = subprocess.Popen(
        [sys.executable, str(HERE / "load_client.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdin
    client.stdin.write(json.dumps(job))
    client.stdin.close()
    client.stdin = None
    return client


def result(client: subprocess.Popen[str]) -> dict[str, Any]:
    """What a client saw."""
    out, _ = client.communicate()
    if client.returncode:
        raise SystemExit(f"the client ended with {client.returncode}")
    found: dict[str, Any] = json.loads(out)
    return found


def ask(path: str, body: bytes = b"") -> bytes:
    """A request as bytes: a POST where there is a body."""
    method, length = ("POST", f"Content-Length: {len(body)}\r\n") if body else ("GET", "")
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n".encode() + body


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of them lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure_classify(server: Running, raw: Raw, photos: list[Path], seconds: float, rounds: int) -> dict[str, Any]:
    """Throughput, latency at 80 %, and overload."""
    requests = [ask(f"/v1/classify?task={TASK}", photo.read_bytes()) for photo in photos]
    pairs, batches = [], []
    raw.run(1.0)
    result(load(server.port, requests, 1.0, connections=CLIENTS))  # both are warm now
    for _ in range(rounds):
        alone, batch = raw.run(seconds)
        served = result(load(server.port, requests, seconds, connections=CLIENTS))
        pairs.append((served["statuses"]["200"] / served["seconds"], alone))
        batches.append(batch)
    rate, batch = statistics.median(rate for rate, _ in pairs), statistics.median(batches)
    steady = [result(load(server.port, requests, 2 * seconds, rate=0.8 * rate, random=random)) for random in (False, True)]
    return {
        "rate": rate,
        "ratio": statistics.median(rate / alone for rate, alone in pairs),
        "batch_ms": 1000 * batch,
        "p50_ms": [1000 * percentile(each["latencies"], 0.5) for each in steady],
        "p99_ms": [1000 * percentile(each["latencies"], 0.99) for each in steady],
        "p99_batches": [percentile(each["latencies"], 0.99) / batch for each in steady],
        "steady_statuses": [each["statuses"] for each in steady],
    } | measure_overload(server, requests, seconds, rate, batch)


def measure_overload(server: Running, requests: list[bytes], seconds: float, rate: float, batch: float) -> dict[str, Any]:
    """Three times as much as the server can."""
    client = load(server.port, requests, 2 * seconds, rate=3 * rate, random=True)
    memory = []
    start = time.perf_counter()
    while time.perf_counter() - start < 2 * seconds:
        memory.append(server.resident_mb())
        time.sleep(0.1)
    recovery = seconds_to_recover(server.port, requests[0], 4 * batch)
    found = result(client)
    third = len(memory) // 3
    return {
        "overload_statuses": found["statuses"],
        "overload_unanswered": found["unanswered"],
        "overload_rate": found["statuses"]["200"] / found["seconds"],
        "rss_mb": [max(memory[third : 2 * third]), max(memory[2 * third :])],
        "recovery_s": recovery,
    }


def seconds_to_recover(port: int, request: bytes, soon: float) -> float:
    """Until a photo is labelled in `soon` seconds."""
    start = time.perf_counter()
    while time.perf_counter() - start < RECOVERY_SECONDS:
        asked = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=RECOVERY_SECONDS) as link:
            link.sendall(request)
            status = link.recv(12)
        if status.endswith(b"200") and time.perf_counter() - asked < soon:
            return time.perf_counter() - start
        time.sleep(0.05)
    return float("inf")


def measure_download(server: Running, empty: Running, pack: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Packs a second over empty answers a second."""
    targets = [(server.port, ask(f"/v1/packs/{pack}")), (empty.port, ask("/empty"))]
    rates: list[list[float]] = []
    for _ in range(rounds):
        found = [result(load(port, [request], seconds, connections=DOWNLOADS)) for port, request in targets]
        rates.append([each["statuses"]["200"] / each["seconds"] for each in found])
    return {
        "packs_per_s": statistics.median(pack for pack, _ in rates),
        "empty_per_s": statistics.median(empty for _, empty in rates),
        "download_ratio": statistics.median(pack / empty for pack, empty in rates),
    }


def prepare(store: Path, backbone: Backbone) -> str:
    """A task of ten classes that needs no learning; the id of its pack."""
    from server.catalogue import Catalogue
    from server.database import Database

    names = names_section(sorted(folder.name.replace("_", " ") for folder in DEMO.iterdir()))
    template = TEMPLATE.section("a photo of a {}.")
    pack = Pack(backbone.manifest.short_fingerprint, ZERO_SHOT, Precision.FP32, (), (template, names))
    catalogue = Catalogue(Database(str(store)))
    catalogue.publish(TASK, pack, None, "benchmark")
    catalogue.promote(TASK, "stable", 1, None, "benchmark")
    catalogue.database.close()
    return pack.pack_id


def measure(backbone: str, photos: list[Path], seconds: float, rounds: int, download: bool) -> dict[str, Any]:
    """One backbone."""
    with tempfile.TemporaryDirectory() as folder:
        pack = prepare(Path(folder), Backbone.open(backbone))
        port, other = free_port(), free_port()
        command = [sys.executable, "-m", "device_agent", "serve", "--store", folder, "--backbone", backbone, "--port", str(port)]
        with running(command, port, "/readyz") as server:
            with closing(Raw(backbone, photos)) as raw:
                found = {"backbone": Path(backbone).name} | measure_classify(server, raw, photos, seconds, rounds)
            if download:
                with running([sys.executable, str(HERE / "empty_route.py"), str(other)], other, "/empty") as empty:
                    found |= measure_download(server, empty, pack, seconds / 4, 3 * rounds)  # many short turns
    return found


PREPARE = """
import sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
from serve_load import Backbone, prepare
prepare(Path(sys.argv[1]), Backbone.open(sys.argv[2]))
"""


@contextmanager
def serving(checkout: Path, backbone: str) -> Iterator[Running]:
    """The server of a checkout, with a store that the same has made; this environment's Python and packages."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(checkout):
        python = ["env", f"PYTHONPATH={checkout}", sys.executable]
        subprocess.run([*python, "-c", PREPARE, folder, backbone], check=True)
        port = free_port()
        command = ["-m", "device_agent", "serve", "--store", folder, "--backbone", backbone, "--port", str(port)]
        with running([*python, *command], port, "/readyz") as server:
            yield server


def compare(backbone: str, photos: list[Path], seconds: float, rounds: int, other: Path) -> str:
    """Throughput here and there, in turn, each first in half of the rounds."""
    requests = [ask(f"/v1/classify?task={TASK}", photo.read_bytes()) for photo in photos]
    rates: list[list[float]] = []
    with serving(HERE.parent, backbone) as ours, serving(other, backbone) as theirs:
        for i in range(-1, rounds):  # the first one warms them
            found = {}
            for server in (ours, theirs)[:: 1 if i % 2 else -1]:
                served = result(load(server.port, requests, seconds, connections=CLIENTS))
                found[server.port] = served["statuses"]["200"] / served["seconds"]
            rates += [[found[ours.port], found[theirs.port]]] * (i >= 0)
    here, there = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(a / b for a, b in rates)
    return f"| {Path(backbone).name} | {here:.1f} | {there:.1f} | **{ratio:.2f}** |"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown."""
    lines = [
        "| backbone | photos/s | of the raw encoder | one batch | at 80 %, even gaps: p50, p99 | in batches | random gaps "
        "| in batches | at 3x: answers | photos/s | memory | recovery |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(r["overload_statuses"].items()))
        memory = " to ".join(f"{mb:.0f}" for mb in r["rss_mb"])
        lines.append(
            f"| {r['backbone']} | {r['rate']:.1f} | **{r['ratio']:.0%}** | {r['batch_ms']:.0f} ms "
            f"| {_steady(r, 0)} | {_steady(r, 1)} "
            f"| {answers} | {r['overload_rate']:.1f} | {memory} MB | {r['recovery_s']:.1f} s |"
        )
    lines += [
        f"\n{r['packs_per_s']:.0f} packs a second, **{r['download_ratio']:.0%}** of {r['empty_per_s']:.0f} empty answers."
        for r in rows
        if "packs_per_s" in r
    ]
    return lines


def _steady(row: dict[str, Any], which: int) -> str:
    return f"{row['p50_ms'][which]:.0f}, {row['p99_ms'][which]:.0f} ms | **{row['p99_batches'][which]:.1f}**"


def main() -> None:
    """Measure each backbone, and downloads with the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", default=["nano"])
    parser.add_argument("--photos", type=Path, help="a folder; without it, the embedded ones, which are small")
    parser.add_argument("--count", type=int, default=64, help="photos that are used")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="the folder of another checkout: compare throughput, and nothing else")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = sorted(path for path in (args.photos or DEMO).rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    photos = found[:: max(1, len(found) // args.count)][: args.count]
    if args.against:
        lines = [compare(name, photos, args.seconds, args.rounds, args.against.resolve()) for name in args.backbone]
        publish("serve_load_against", ["| backbone | photos/s | of the other | ratio |", "|---" * 4 + "|", *lines], out=args.out)
        return
    rows = [measure(name, photos, args.seconds, args.rounds, not i) for i, name in enumerate(args.backbone)]
    if args.json:
        print(json.dumps(rows))
        return
    publish("serve_load", table(rows), "onnxruntime", "uvicorn", "fastapi", out=args.out)


if __name__ == "__main__":
    main()
