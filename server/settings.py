"""Settings of a server: every limit a named field with its unit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

MB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        body_bytes: of a request's body.
        body_seconds: until the whole body must be here; a slow sender loses its place.
        bodies_bytes: of all bodies that are held at the same time; more is 503.
        client_bodies_bytes: of them, those of one client (token or address); more is 429.
        answer_seconds: from a whole body to its answer; what takes longer is called off with 503.
        pixels: of one photo, width times height.
        decode_seconds: for one photo, waiting for a decoder included.
        images: photos a request.
        tasks: tasks a request may name.
        labels: class names a request may add.
        label_chars: characters of such a name.
        added: class names that a request may add to all its tasks together; each takes a run of the text encoder.
        top: labels a task that are answered.
        report_bytes: of the report that comes with a pack.
        state_bytes: of the state that comes with a pack.
        taught_photos: photos of a state that is learned from again; this and the next keep it within a few seconds.
        taught_scores: such photos times their classes.
        pending_images: photos that wait for the encoder; more is 503.
        client_images: of them, those of one client; more is 429.
        names: class names of a pack that is published, times its templates.
        name_chars: characters of all these names together.
        publications: packs that are tried out at the same time before they are published; others wait.
        client_publications: of them, those of one client.
        pending_packs: packs that wait for their class features; more is 503.
        batch: photos that a lane of the encoder takes at once; more win nothing (docs/adr/0007-image-encoder.md).
        residents_bytes: of class features that are kept in memory.
        packs_bytes: of packs that are kept in memory.
        retry_seconds: what Retry-After says.
        connections: open connections and running requests; more is 503.
    """

    body_bytes: int = 16 * MB
    body_seconds: float = 20.0
    bodies_bytes: int = 64 * MB
    client_bodies_bytes: int = 32 * MB
    answer_seconds: float = 30.0
    pixels: int = 25_000_000
    decode_seconds: float = 10.0
    images: int = 16
    tasks: int = 1000
    labels: int = 64
    label_chars: int = 100
    added: int = 4096
    top: int = 100
    report_bytes: int = 256 << 10
    state_bytes: int = 8 * MB
    taught_photos: int = 5000
    taught_scores: int = 500_000
    pending_images: int = 64
    client_images: int = 48
    names: int = 5000
    name_chars: int = 100_000
    publications: int = 3
    client_publications: int = 1
    pending_packs: int = 1000
    batch: int = 2
    residents_bytes: int = 64 * MB
    packs_bytes: int = 16 * MB
    retry_seconds: int = 1
    connections: int = 1000


@dataclass(frozen=True)
class ServerSettings:
    """One server.

    Attributes:
        store: a folder for the embedded database, or a database URL.
        backbone, precision, providers, threads: as of `Backbone.open`.
        anonymous_read, anonymous_classify: whether these need no token.
        gate: least held-out accuracy that a published pack's report must state, 0 to 1; None for no gate.
        cors_origins: whose pages may ask from a browser: scheme://host[:port], or *.
        limits: see there.
    """

    store: str
    backbone: str = "nano"
    precision: str = "auto"
    providers: str = "cpu"
    threads: int = 0
    anonymous_read: bool = True
    anonymous_classify: bool = True
    gate: float | None = None
    cors_origins: tuple[str, ...] = ()
    limits: Limits = Limits()

    def to_json(self) -> str:
        """For a worker process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerSettings:
        """Back from `to_json`."""
        fields = json.loads(text)
        lists = {"cors_origins": tuple(fields["cors_origins"]), "limits": Limits(**fields["limits"])}
        return cls(**fields | lists)
