"""The process behind a `Decoder`: photos in, pixels out, under limits that it sets for itself before each photo.

    python -m edge_qprompt.photos.decoder_process FD

Reads a pickled `Job` and a photo's bytes from the socket of the file descriptor FD, and writes how it went, then pixels or an
error's text (`decoder.SAYING`). Pickles come from the parent alone, never the other way.
"""

from __future__ import annotations

import math
import os
import pickle
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import cast

from PIL import AvifImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from edge_qprompt.errors import PhotoError
from edge_qprompt.photos.decoder import (
    MEMORY,
    MOST_ERROR_BYTES,
    PIXELS,
    REFUSED,
    REQUEST,
    SAYING,
    SIZE,
    Job,
    job_views,
    received,
)

MEMORY_BYTES = 64 << 20  # beside twice the file itself and what its pixels take
MEMORY_BYTES_A_PIXEL = 20  # what WebP and JPEG 2000, the worst, take
CPU_SECONDS = 2  # the kernel counts whole ones, so up to one more
CPU_SECONDS_A_MEGAPIXEL = 1.0  # fifty times what a JPEG takes on a laptop, five times JPEG 2000
FEW_FILES = 32  # open ones: Python's own, Pillow's modules while they load
SAID_PIXELS = 1_000_000  # a photo of fewer need not say how many: nobody allows it more time for them
COMMON_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, GifImagePlugin)  # loaded here, not by the first photo


def allow(seconds: float, memory: int) -> None:
    """Let this process take so much more processor time and private memory than it has until now."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
    if STATM is not None:
        used = int(os.pread(STATM, 200, 0).split()[5]) * PAGE_BYTES
        _limit(resource.RLIMIT_DATA, used + memory)


def _statm() -> int | None:
    """A descriptor of what says how much private writable memory there is, as Linux counts it for RLIMIT_DATA; None elsewhere."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _limit(what: int, value: int) -> None:
    """Set the soft limit, as far as the hard one lets it."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


STATM = _statm()
PAGE_BYTES = resource.getpagesize()


def answer(job: Job, data: bytes, say: Callable[[bytes], None]) -> tuple[bytes, bytes | memoryview]:
    """What is sent back for a photo: how it went, and more. The size of a large one is said before it is decoded."""
    memory = MEMORY_BYTES + 2 * len(data)

    def sized(pixels: int) -> None:
        seconds = CPU_SECONDS + CPU_SECONDS_A_MEGAPIXEL * pixels / 1e6
        allow(seconds, memory + MEMORY_BYTES_A_PIXEL * pixels)
        if pixels >= SAID_PIXELS:
            say(SAYING.pack(SIZE, pixels))

    # a WebP's canvas is made before anyone is told its size
    allow(CPU_SECONDS, memory + MEMORY_BYTES_A_PIXEL * job.most_pixels)
    try:
        return PIXELS, job_views(data, job, sized=sized).data.cast("B")
    except PhotoError as error:
        said = str(error).encode(errors="backslashreplace")[:MOST_ERROR_BYTES]
        return (MEMORY, b"") if _is_memory(error) else (REFUSED, said)
    except MemoryError:
        return MEMORY, b""


def _is_memory(error: BaseException | None) -> bool:
    """Whether an error came from a lack of memory."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


@lru_cache(maxsize=1)
def _job(pickled: bytes) -> Job:
    """What the parent wants of a photo, which is the same of the next one."""
    return cast(Job, pickle.loads(pickled))


def main(descriptor: int) -> None:
    """Answer until nobody asks any more, or memory ran out once: what is left of it is in pieces then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who ask
    warnings.filterwarnings("ignore", module=r"PIL\.")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each brings a stack that counts as memory
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, FEW_FILES)
    link = socket.socket(fileno=descriptor)
    link.sendall(SAYING.pack(PIXELS, 0))
    kind = b""
    while kind != MEMORY:
        try:
            wanted, named, size = REQUEST.unpack(received(link, REQUEST.size))
            job = replace(_job(bytes(received(link, wanted))), name=received(link, named).decode(errors="surrogatepass"))
            data = bytes(received(link, size))
        except EOFError:
            return
        kind, more = answer(job, data, link.sendall)
        link.sendall(SAYING.pack(kind, len(more)))
        link.sendall(more)


if __name__ == "__main__":
    main(int(sys.argv[1]))
