"""What Prometheus reads."""

from __future__ import annotations

import os
import platform
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from edge_qprompt import __version__
from edge_qprompt.backbone import runtime_version
from server.processes import Processes

MEDIA_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # where prometheus_client itself looks
BUILD = ("version", "python", "onnxruntime", "backbone")


class Metrics:
    """Counters of one process; with several workers prometheus_client adds them up through files.

    Attributes:
        abandoned: photos whose decoding was given up, by reason.
        refused: tokens that were not taken, by reason.
        database_errors: by kind.
        expiry: seconds until the next signed channel expires; infinite where there is none, NaN where nobody knows.
        expiring: signed channels that expire soon, or have.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on: dict[str, Any] = {"namespace": "edge_qprompt", "registry": self.registry}
        now: dict[str, Any] = {**on, "multiprocess_mode": "livesum"}
        same: dict[str, Any] = {**on, "multiprocess_mode": "livemostrecent"}  # all workers read it from one database
        self._requests = Counter("requests", "Requests answered.", ["method", "route", "status"], **on)
        self._seconds = Histogram("request_seconds", "Seconds from request to answer.", ["route"], buckets=SECONDS, **on)
        self.batch = Histogram("batch_photos", "Photos encoded at once.", buckets=BATCHES, **on)
        self.encoder = Histogram("encoder_seconds", "Seconds of the image encoder a batch.", buckets=SECONDS, **on)
        self.waiting = Gauge("waiting_photos", "Photos that wait for the encoder or are in it.", **now)
        self.residents = Gauge("residents", "Packs whose class features are in memory.", **now)
        self.resident_bytes = Gauge("resident_bytes", "Bytes of class features in memory.", **now)
        self.hits = Counter("resident_hits", "Class features that were in memory.", **on)
        self.misses = Counter("resident_misses", "Class features that had to be computed.", **on)
        self.abandoned = Counter("decodes_abandoned", "Photos whose decoding was given up.", ["reason"], **on)
        self.refused = Counter("tokens_refused", "Tokens that were not taken.", ["reason"], **on)
        self.database_errors = Counter("database_errors", "Failures of the database.", ["kind"], **on)
        self.expiry = Gauge("next_channel_expiry_seconds", "Seconds until the next signed channel expires.", **same)
        self.expiring = Gauge("channels_expiring", "Signed channels that expire within 14 days, or have.", **same)
        self._build = Gauge("build_info", "What runs; always 1.", BUILD, **on, multiprocess_mode="livemax")
        self.registry.register(Processes(os.getpid()))

        self._children = cache(lambda *labels: (self._requests.labels(*labels), self._seconds.labels(labels[1])))

    def built(self, backbone: str) -> None:
        """Say what runs, with which backbone."""
        self._build.labels(__version__, platform.python_version(), runtime_version(), backbone).set(1)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; few different methods and routes, please."""
        requests, times = self._children(method, route, status)
        requests.inc()
        times.observe(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        if SHARED in os.environ:
            together = CollectorRegistry()
            MultiProcessCollector(together)  # type: ignore[no-untyped-call]
            together.register(Processes(os.getppid()))  # the workers' parent
            return generate_latest(together)
        return generate_latest(self.registry)
