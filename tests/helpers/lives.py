"""Many short lives of the real server: this process has imported everything, and forks a server for each "start" on its stdin.

    python tests/lives.py STORE PORT

A fork takes milliseconds where Python, its imports and the backbone take seconds. "kill" is kill -9. The backbone's
encoders have one thread, the one that calls them, so no fork loses any.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType


@dataclass
class Lives:
    """The forking process, seen from a test; what its servers log is in `log`."""

    process: subprocess.Popen[str]
    log: Path

    @classmethod
    def of(cls, store: Path, port: int) -> Lives:
        command = [sys.executable, __file__, str(store), str(port)]
        log = store / "log"
        with log.open("w") as file:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True)
        lives = cls(process, log)
        lives._answer("ready")
        return lives

    def start(self) -> None:
        """A new server; it listens a moment later."""
        self._ask("start", "started")

    def kill(self) -> None:
        """The server is no more when this returns."""
        self._ask("kill", "killed")

    def _ask(self, what: str, answer: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        self._answer(answer)

    def _answer(self, wanted: str) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline().strip() == wanted, self.log.read_text()[-3000:]

    def __enter__(self) -> Lives:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.communicate(timeout=30)  # the end of its stdin ends it


def serve(store: str, port: int) -> None:
    """What `edge-qprompt serve` runs, on a backbone that is open already."""
    import uvicorn

    from server.app import create_app
    from server.commands.serve import uvicorn_options
    from server.log import set_up
    from server.settings import ServerSettings

    set_up()
    settings = ServerSettings(store, threads=1)
    uvicorn.run(create_app(settings), port=port, **uvicorn_options(settings.limits.connections))


def say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def main(store: str, port: int) -> None:
    import numpy as np
    import uvicorn  # noqa: F401  what `serve` would import anew in every life

    from edge_qprompt import Backbone
    from server import app, log, protocol  # noqa: F401

    backbone = Backbone.open("nano", threads=1)
    backbone.encode_images(np.zeros((1, 3, backbone.manifest.preprocess.size, backbone.manifest.preprocess.size), np.float32))
    backbone.text.from_template(["photo"], "a {}.")
    Backbone.open = lambda *_, **__: backbone  # type: ignore[assignment, method-assign]
    child = 0
    say("ready")
    for line in sys.stdin:
        if line.strip() == "start":
            child = os.fork()
            if not child:
                try:
                    serve(store, port)
                finally:
                    os._exit(1)
            say("started")
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            child = 0
            say("killed")
    if child:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
