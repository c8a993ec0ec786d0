"""A live server to attack, with small limits, and what must hold of it whatever was sent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from hostile import PHOTO, statuses, talk
from hostile_load import descendants
from servers import LiveServer

from edge_qprompt import Backbone, Pack
from edge_qprompt.learn import METHODS
from edge_qprompt.pack.pack import Precision, Section, names_section
from edge_qprompt.pack.section import TEMPLATE

BODY_SECONDS = 3
BODY_MB, MEGAPIXELS, CACHE_MB = 4, 4, 8
OPTIONS = ("--max-body-mb", BODY_MB, "--max-megapixels", MEGAPIXELS, "--cache-mb", CACHE_MB, "--body-seconds", BODY_SECONDS)


def clothes(nano: Backbone, template: str = "a photo of a {}.") -> Pack:
    """Ready without any learning, and good enough for one photo of a bag."""
    sections = (Section(TEMPLATE.tag, template.encode()), names_section(("bag", "ankle boot", "t-shirt")))
    return Pack(nano.manifest.short_fingerprint, METHODS["zero-shot"].number, Precision.FP32, (), sections)


@dataclass(frozen=True)
class Target:
    """The server under attack.

    Attributes:
        most_mb: that its limits allow it without its decoders, by the formula of docs/operate.md.
        decoder_mb: that a decoder may have.
    """

    server: LiveServer
    token: str
    most_mb: float
    decoder_mb: float
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
        decoders = descendants(self.server.process.pid)[1:]
        assert decoders
        assert max(peak_mb(pid) for pid in decoders) < self.decoder_mb


def peak_mb(pid: int) -> float:
    """Most memory that a process ever had, in 10^6 bytes; 0 where it is gone."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return 0.0
