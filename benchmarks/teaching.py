"""What it costs a server to be taught one photo more: seconds and memory, up to the limit.

    python benchmarks/teaching.py          half a minute

States of random features around a mean a class, on the embedded backbone; each is learned anew as the server does it, once,
when the encoder is loaded.
Memory is what the process has taken at its peak beyond what it had before.
"""

from __future__ import annotations

import asyncio
import hashlib
import resource
import time

import numpy as np

from edge_qprompt import AdaptSettings, Backbone, State
from edge_qprompt.learn import Encoded, teach_encoded
from server.settings import Limits
from server.teacher import Teacher

SHAPES = ((10, 16), (100, 16), (100, 49), (10, 499), (700, 1))  # classes, photos of each; the last three are at the limit
N_CTX = 8


def state_of(backbone: Backbone, classes: int, each: int) -> State:
    """As `adapt` would have written it."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    means, apart = (rng.normal(size=(rows, backbone.manifest.embed_dim)) for rows in (classes, len(labels)))
    features = means[labels] + apart
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    digests = np.array([list(hashlib.sha256(bytes([i >> 8, i & 255])).digest()) for i in range(len(labels))], np.uint8)
    about = backbone.manifest.fingerprint, backbone.precision, backbone.feature_kind
    names = tuple(f"animal {i}" for i in range(classes))
    return State(*about, AdaptSettings(n_ctx=N_CTX), names, digests, labels, features[:, None].astype(np.float16)).arranged()


def peak_mb() -> float:
    """Of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


async def measure() -> None:
    """A line a shape."""
    backbone = Backbone.open("nano")
    teacher = Teacher(backbone, Limits())
    photo = Encoded("new", hashlib.sha256(b"new").digest(), np.eye(1, backbone.manifest.embed_dim, dtype=np.float32))
    await teacher.learn(state_of(backbone, 2, 2).encode(), lambda backbone, state: teach_encoded(backbone, state, []))
    for classes, each in SHAPES:
        data = state_of(backbone, classes, each).encode()
        before, began = peak_mb(), time.perf_counter()
        await teacher.learn(data, lambda backbone, state: teach_encoded(backbone, state, [(photo, "animal 0")]))
        seconds = time.perf_counter() - began
        more = peak_mb() - before
        print(f"{classes} classes of {each} photos: {seconds:.1f} s, {more:.0f} MB more, state of {len(data) / 1e6:.2f} MB")
    teacher.close()


if __name__ == "__main__":
    asyncio.run(measure())
