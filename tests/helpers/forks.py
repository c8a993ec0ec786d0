"""Many short lives of the real command: this process has imported everything, and forks one for each line of its stdin.

    python tests/forks.py

A line is JSON: arguments, working folder, environment, and the files for stdout and stderr; the answer is the exit code. A
fork takes milliseconds where Python and torch's imports take seconds. Nothing has run before it but imports, so it has no
thread to lose.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

IMPORTED = ("torch", "onnxruntime", "edge_qprompt.learn.adapt", "edge_qprompt.learn.loop", "edge_qprompt.learn.methods.qres")


class Forks:
    """The forking process, seen from a test."""

    def __init__(self) -> None:
        command, pipe = [sys.executable, __file__], subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)

    def run(self, args: tuple[str, ...], env: Mapping[str, str], cwd: Path, out: Path, err: Path, seconds: float) -> int:
        """The exit code of `edge-qprompt ARGS`; negative where a signal ended it."""
        assert self._process.stdin
        assert self._process.stdout
        job = {"args": args, "env": dict(env), "cwd": str(cwd), "out": str(out), "err": str(err)}
        timer = threading.Timer(seconds, self._kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not answer:
            self.close()
        assert answer, f"edge-qprompt {' '.join(args)} takes longer than {seconds} s"
        return int(answer)

    def close(self) -> None:
        """End it, with what it runs."""
        self._kill()
        self._process.communicate()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def live(args: list[str], env: dict[str, str], cwd: str, out: str, err: str) -> int:
    """What `python -m device_agent` does."""
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(path, flags), descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["edge-qprompt", *args]
    from device_agent.main import main

    code: int | str | None = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0


def serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = live(**json.loads(line))
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
