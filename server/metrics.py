"""What Prometheus reads."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

MEDIA_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Metrics:
    """Counters of one process; with several workers prometheus_client adds them up through files."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on: dict[str, Any] = {"namespace": "edge_qprompt", "registry": self.registry}
        now: dict[str, Any] = {**on, "multiprocess_mode": "livesum"}
        self._requests = Counter("requests", "Requests answered.", ["method", "route", "status"], **on)
        self._seconds = Histogram("request_seconds", "Seconds from request to answer.", ["route"], buckets=SECONDS, **on)
        self.batch = Histogram("batch_photos", "Photos encoded at once.", buckets=BATCHES, **on)
        self.encoder = Histogram("encoder_seconds", "Seconds of the image encoder a batch.", buckets=SECONDS, **on)
        self.waiting = Gauge("waiting_photos", "Photos that wait for the encoder or are in it.", **now)
        self.abandoned = Counter("decodes_abandoned", "Photos given up while they were decoded.", ["reason"], **on)
        self.residents = Gauge("residents", "Packs whose class features are in memory.", **now)
        self.resident_bytes = Gauge("resident_bytes", "Bytes of class features in memory.", **now)
        self.hits = Counter("resident_hits", "Class features that were in memory.", **on)
        self.misses = Counter("resident_misses", "Class features that had to be computed.", **on)

        self._children = cache(lambda *labels: (self._requests.labels(*labels), self._seconds.labels(labels[1])))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; few different methods and routes, please."""
        requests, times = self._children(method, route, status)
        requests.inc()
        times.observe(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # where prometheus_client itself looks
            together = CollectorRegistry()
            MultiProcessCollector(together)  # type: ignore[no-untyped-call]
            return generate_latest(together)
        return generate_latest(self.registry)
