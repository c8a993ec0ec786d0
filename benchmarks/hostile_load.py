"""A server under hostile photos: does an honest client notice, what does it cost, and does the server end when told to?

    python benchmarks/hostile_load.py                      a minute, from another address
    python benchmarks/hostile_load.py --same-address       the worst case: both look like one client

One client sends the files of `hostile_photos.py` again and again without a pause, on a few connections; beside it an honest
one sends an ordinary photo, waits for the answer, and sends the next. Then SIGTERM comes in the middle of it. All of it on
loopback, and bounded: files of at most 16 MB, `--seconds` of load, and a server that is killed where it does not end.

* honest p99, in batch times (one full batch in the raw encoder, measured before, with nothing else running) and a second
* answers of both clients by status
* peak memory: the server and all its children, sampled ten times a second
* seconds from SIGTERM to the end of the process
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import with_helpers  # noqa: F401  before what it makes importable
from hostile_photos import KINDS
from serve_load import DEMO, Raw, Running, free_port, percentile, prepare, running
from timing import publish

from edge_qprompt import Backbone

HONEST, HOSTILE = "127.0.0.1", "127.0.0.2"  # all of 127/8 is this machine
EXIT_SECONDS = 60.0  # then it is killed
TIMEOUT = 60.0  # of a request


@dataclass
class Client:
    """What a client saw: statuses, seconds a request, and what went wrong in between."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def send(self, port: int, source: str, bodies: Sequence[bytes], until: Any, pause: float) -> None:
        """Send one photo after the other, each on a connection of its own."""
        at = 0
        while not until.is_set():
            started = time.perf_counter()
            try:
                link = http.client.HTTPConnection("127.0.0.1", port, TIMEOUT, (source, 0))
                with closing(link):
                    link.request("POST", "/v1/classify", bodies[at % len(bodies)])
                    self.statuses[link.getresponse().status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.errors[type(error).__name__] += 1
                until.wait(0.5)
            self.seconds.append(time.perf_counter() - started)
            at += 1
            until.wait(pause)


def send_hostile(port: int, source: str, bodies: Sequence[bytes], connections: int, done: Any, answers: Any) -> None:
    """The hostile client, a process: as many connections at a time, each beginning with another file."""
    client = Client()
    turns = [bodies[(i * len(bodies)) // connections :] + bodies[: (i * len(bodies)) // connections] for i in range(connections)]
    threads = [threading.Thread(target=client.send, args=(port, source, turn, done, 0.0)) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(client)


def descendants(pid: int) -> list[int]:
    """The process and all that it has started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def memory_mb(pid: int) -> float:
    """Memory of a process and its children, 10^6 bytes; what they share is counted by its parts (PSS)."""
    total = 0
    for each in descendants(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6


def attack(server: Running, photos: Sequence[bytes], hostile: Sequence[bytes], args: argparse.Namespace) -> dict[str, Any]:
    """Load of both kinds, then SIGTERM in the middle."""
    context = multiprocessing.get_context("spawn")  # of its own, so that only the server makes the honest one wait
    done, answers, peak, honest = context.Event(), context.Queue(), 0.0, Client()
    source = HONEST if args.same_address else HOSTILE
    enemy = context.Process(target=send_hostile, args=(server.port, source, hostile, args.connections, done, answers))
    enemy.start()
    stop = threading.Event()
    thread = threading.Thread(target=honest.send, args=(server.port, HONEST, photos, stop, args.pause))
    thread.start()
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        peak = max(peak, memory_mb(server.process.pid))
        time.sleep(0.1)
    honest_then = Client(honest.statuses.copy(), list(honest.seconds), honest.errors.copy())
    asked = time.monotonic()
    children = descendants(server.process.pid)
    server.process.send_signal(signal.SIGTERM)
    try:
        code = server.process.wait(EXIT_SECONDS)
    except Exception:
        server.process.kill()
        code = None
    ended = time.monotonic() - asked
    stop.set()
    done.set()
    thread.join(TIMEOUT + 1)
    found = answers.get(timeout=TIMEOUT + 1)
    enemy.join(TIMEOUT)
    return {
        "honest": honest_then,
        "hostile": found,
        "peak_mb": peak,
        "exit_seconds": ended,
        "exit_code": code,
        "left": [pid for pid in children if _runs(pid)],
    }


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def table(found: dict[str, Any], batch: float, args: argparse.Namespace) -> list[str]:
    """Markdown."""
    honest, hostile = found["honest"], found["hostile"]
    p99 = percentile(honest.seconds, 0.99)
    allowed = 4 * batch + 1
    rows = [
        ("honest photos, by answer", f"{dict(honest.statuses)} {dict(honest.errors) or ''}"),
        (
            "honest p50, p99",
            f"{percentile(honest.seconds, 0.5):.3f}, **{p99:.3f} s** (four batches and a second: {allowed:.3f} s)",
        ),
        ("hostile photos, by answer", f"{dict(sorted(hostile.statuses.items()))} {dict(hostile.errors) or ''}"),
        ("peak memory of all processes", f"{found['peak_mb']:.0f} MB"),
        ("SIGTERM in the middle", f"ended after {found['exit_seconds']:.1f} s with {found['exit_code']}, left {found['left']}"),
    ]
    where = "the same address" if args.same_address else "another address"
    head = f"{len(KINDS)} kinds of files on {args.connections} connections from {where}, {args.seconds:g} s"
    return [f"| {head} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=2, help="of the hostile client")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between the honest client's photos")
    parser.add_argument("--photo", type=Path, nargs="*", help="the honest client's; without, embedded ones, which are small")
    parser.add_argument("--files", type=Path, help="a folder of other hostile files")
    parser.add_argument("--same-address", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    chosen = sorted(path for path in DEMO.rglob("*.png"))[:40:4] if args.photo is None else args.photo
    photos = [path.read_bytes() for path in chosen]
    hostile = [path.read_bytes() for path in sorted(args.files.iterdir())] if args.files else [make() for make in KINDS.values()]
    with closing(Raw(args.backbone, chosen)) as raw:
        raw.run(1.0)
        _, batch = raw.run(3.0)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), Backbone.open(args.backbone))
        port = free_port()
        options = ["--store", folder, "--backbone", args.backbone, "--port", str(port)]
        with running([sys.executable, "-m", "device_agent", "serve", *options], port, "/readyz") as server:
            found = attack(server, photos, hostile, args)
    if args.json:
        plain = {name: value for name, value in found.items() if not isinstance(value, Client)}
        p99 = percentile(found["honest"].seconds, 0.99)
        print(json.dumps(plain | {"batch_seconds": batch, "honest_p99": p99, "honest": dict(found["honest"].statuses)}))
        return
    publish("hostile_load", table(found, batch, args), "onnxruntime", "pillow", out=args.out)


if __name__ == "__main__":
    main()
