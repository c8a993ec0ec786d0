"""Photos decoded in a process of their own, which can be killed: what a file costs is bounded, whatever it claims.

A few bytes can ask a decoder for gigabytes or for half an hour, and a thread that decodes them cannot be ended. A
`Decoder` is a process that holds Pillow and numpy, under limits of memory and of processor time that grow with
the photo's pixels. One that passes them dies, its photo is refused, and another takes its place. Its environment
has no secrets, and it can write no file.

Common formats cost what they weigh: who reads photos of its own decodes these itself (`Decoders`), and only a server, whose
photos are anybody's, hands all of them over.

What comes back are numbers, never a pickle: whoever takes over a decoder can at most answer with other pixels.

Symbols: V views, S pixels a side.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edge_qprompt.backbone import Preprocess
from edge_qprompt.errors import CostError, DataError, PhotoError
from edge_qprompt.photos.photo import FORMATS, MAX_PHOTO_PIXELS, Bytes, decode_photo, is_common, view_of

PROCESS = "edge_qprompt.photos.decoder_process"
START_SECONDS = 30.0  # until a new process answers; on a board with a slow disk it loads Pillow for seconds
MOST_ERROR_BYTES = 2000
CPUCLOCK_SCHED = 2  # of Linux: the clock of a process counts what all of its threads take
KEPT_BYTES = 32 << 20  # of a process's memory between two photos, which would be faulted in anew with each
PIXELS, REFUSED, MEMORY, SIZE = b"p", b"r", b"m", b"s"  # kinds of what is said; a size comes before the answer
SAYING = struct.Struct("<cQ")  # a kind, and the bytes that follow; with a size, the pixels of the photo, and nothing follows
REQUEST = struct.Struct("<IIQ")  # bytes of a pickled job, of its name, and of the photo; they follow in this order
JOINED_BYTES = 64 << 10  # a smaller photo goes in one piece with its job
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONHOME")  # of the environment
SAID = {
    "memory": "takes more memory to decode than a photo of its size may: save it as an ordinary JPEG",
    "cpu": "takes longer to decode than a photo of its size may: save it as an ordinary JPEG",
    "crash": "breaks the decoder: save it as an ordinary JPEG",
    "ended": "was still being decoded when its time was up: save it as an ordinary JPEG, or smaller",
}  # what is said of a photo by the reason of its CostError


@dataclass(frozen=True)
class Job:
    """What a decoder is asked for.

    Attributes:
        name: what to call the photo in an error.
        settings: how a view is made.
        keys: one a view, see `photo.view_of`.
        most_pixels: of the photo, width times height.
        formats: Pillow's names of those that are taken.
    """

    name: str
    settings: Preprocess
    keys: tuple[bytes | None, ...] = (None,)
    most_pixels: int = MAX_PHOTO_PIXELS
    formats: tuple[str, ...] = FORMATS

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(V, 3, S, S), of the views."""
        return len(self.keys), 3, self.settings.size, self.settings.size

    @property
    def most_bytes(self) -> int:
        """Of an answer."""
        return max(math.prod(self.shape), MOST_ERROR_BYTES)


class Decoder:
    """One process that decodes one photo at a time; started again where a photo has broken it.

    `views` is for one thread at a time; all else may come from any other. `start` and `close` wait for each other.
    """

    def __init__(self) -> None:
        self._turn = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._killed = False

    @property
    def pid(self) -> int | None:
        """Of the process; None where none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def is_ready(self) -> bool:
        """Whether it can take a photo at once."""
        return self.pid is not None and not self._killed

    @property
    def cpu_seconds(self) -> float | None:
        """Processor time that the process has taken so far; None where none runs, or where the system does not tell."""
        process = self._process
        if process is None or sys.platform != "linux":
            return None
        try:  # clock_getcpuclockid(3), which Python does not offer: a tenth of the time of /proc/PID/stat
            return time.clock_gettime((~process.pid << 3) | CPUCLOCK_SCHED)
        except OSError:
            return None

    def start(self) -> None:
        """Start the process, if none runs: a third of a second.

        Raises:
            CostError: it was killed for good.
            DataError: Python cannot be started once more.
        """
        with self._turn:
            if not self.is_ready:
                self._begin()

    def views(self, data: bytes, job: Job, sized: Callable[[int], None] = lambda _: None) -> Bytes:
        """Views of a photo, (V, 3, S, S), not normalised.

        Args:
            data: a whole image file.
            job: what is wanted of it.
            sized: told the number of pixels that the file says it has, before these are decoded; not told of a small photo.

        Raises:
            CostError: it takes more memory or time than a photo of its size may, or the process was killed.
            PhotoError: it cannot be decoded.
        """
        self.start()
        assert self._link
        with suppress(OSError):  # it has died, which the answer says
            for piece in request(job, data):
                self._link.sendall(piece)
        kind, more = self._said(job.most_bytes)
        if kind == SIZE:
            sized(int.from_bytes(more, "little"))
            kind, more = self._said(job.most_bytes)
        return self.judged(job, kind, more)

    def judged(self, job: Job, kind: bytes, more: bytearray) -> Bytes:
        """What an answer is: views, or one of the errors of `views`; after a CostError the process is gone.

        Args:
            job: that was asked for.
            kind: of the answer; none where the process died.
            more: what followed.
        """
        if kind == PIXELS and len(more) == math.prod(job.shape):
            return np.frombuffer(more, np.uint8).reshape(job.shape)
        if kind == REFUSED:
            raise PhotoError(more.decode(errors="replace"))
        with self._turn:
            reason = "memory" if kind == MEMORY else self._cause()
            self.close()
        raise CostError(f"{job.name} {SAID[reason]}", reason)

    def take_link(self) -> socket.socket:
        """The socket to a process that has been started, for who speaks with it in an event loop: `request` goes in, answers of
        `SAYING` come out. `views` cannot be used then; the socket ends with the process."""
        link, self._link = self._link, None
        assert link
        return link

    def nice(self) -> None:
        """Let all else go first."""
        with suppress(OSError):  # it has just ended, or the system forbids it
            if (pid := self.pid) is not None:
                os.setpriority(os.PRIO_PROCESS, pid, 10)

    def kill(self) -> None:
        """End it for good, now; who waits for `views` gets a CostError."""
        self._killed = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End the process and let its link go."""
        with self._turn:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None
            if self._link is not None:
                self._link.close()
                self._link = None

    def _begin(self) -> None:
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", PROCESS, str(theirs.fileno())]
            nowhere = subprocess.DEVNULL  # what libraries print about a file is not for a log
            self._process = subprocess.Popen(
                command, stdin=nowhere, stdout=nowhere, stderr=nowhere, pass_fds=[theirs.fileno()], env=_environment()
            )
        self._link = ours
        ours.settimeout(START_SECONDS)
        begun = not self._killed and self._said(0)[0] == PIXELS
        ours.settimeout(None)
        if self._killed:
            self.close()
            raise CostError(f"the photo {SAID['ended']}", "ended")
        if not begun:
            self.close()
            raise DataError(f"{sys.executable} cannot be started to decode photos: look at the limits of memory and processes")

    def _said(self, most: int) -> tuple[bytes, bytearray]:
        """The kind of its next words, and at most so many bytes of what follows; of a size, the number; none where it died."""
        assert self._link
        try:
            kind, count = SAYING.unpack(received(self._link, SAYING.size))
            if kind == SIZE:
                return kind, bytearray(count.to_bytes(8, "little"))
            return kind, received(self._link, min(count, most))
        except (EOFError, OSError):
            return b"", bytearray()

    def _cause(self) -> str:
        """Why it died."""
        if self._process is None:  # somebody closed it
            return "ended"
        self._process.kill()  # one that talks nonsense still runs
        code = -self._process.wait()
        return "cpu" if code == signal.SIGXCPU else "ended" if code == signal.SIGKILL else "crash"


def request(job: Job, data: bytes) -> list[bytes]:
    """A photo and what is wanted of it, as a process takes them; the pieces one after the other."""
    wanted, name = _pickled(replace(job, name="")), job.name.encode(errors="surrogatepass")
    head = REQUEST.pack(len(wanted), len(name), len(data)) + wanted + name
    return [head + data] if len(data) < JOINED_BYTES else [head, data]


@lru_cache(maxsize=8)
def _pickled(job: Job) -> bytes:
    """A job, whose name goes apart: then photo after photo is the same job, pickled once and read once."""
    return pickle.dumps(job, pickle.HIGHEST_PROTOCOL)


def received(link: socket.socket, count: int) -> bytearray:
    """So many bytes.

    Raises:
        EOFError: the other end has closed before.
    """
    found = bytearray(count)
    view, at = memoryview(found), 0
    while at < count:
        got = link.recv_into(view[at:], 0, socket.MSG_WAITALL)
        if not got:
            raise EOFError
        at += got
    return found


def _environment() -> dict[str, str]:
    """What a decoder needs to start; one thread for numpy, one arena for malloc, which keeps what the next photo will need."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES), "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES)}
    return kept | malloc | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}


def job_views(data: bytes, job: Job, **more: Any) -> Bytes:
    """Views of a photo, (V, 3, S, S), not normalised, in this process; `more` is for `decode_photo`.

    Raises:
        PhotoError: it cannot be decoded.
    """
    image = decode_photo(data, job.name, job.most_pixels, job.formats, grey=True, **more)
    views = [view_of(image, key, job.settings) for key in job.keys]
    return views[0][None] if len(views) == 1 else np.stack(views)


class Decoders:
    """Views of one's own photos: common formats are decoded right here, all others by decoders, started when needed.

    For any number of threads; ends its decoders when it is left.

        with Decoders() as decoders:
            decoders.views(data, Job("new.tif", settings))
    """

    def __init__(self) -> None:
        self._idle: list[Decoder] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        for decoder in self._idle:
            decoder.close()

    def views(self, data: bytes, job: Job) -> Bytes:
        """As of `Decoder.views`."""
        if is_common(data):
            return job_views(data, job)
        with self._lock:
            decoder = self._idle.pop() if self._idle else Decoder()
        try:
            return decoder.views(data, job)
        finally:
            with self._lock:
                self._idle.append(decoder)
