"""Install torch for the CPU: from PyTorch's own index if that answers within seconds, else from where pip looks.

    python deploy/install_torch.py torch==2.13.0

With options of pip's after the requirement, pip does what these say. On Linux, PyPI's torch brings CUDA, which nothing here uses;
where that is what pip has found, one line says how much it is and how to do without, before anything is downloaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

INDEX = "https://download.pytorch.org/whl/cpu"
ANSWER_SECONDS = 5.0  # names are looked up within this, too
PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
FALLBACK = f"{INDEX} does not answer within {ANSWER_SECONDS:g} s: torch comes from where pip looks"
CUDA = (
    "this torch brings CUDA, 2.7 GB to download and 5 GB on disk; without: Ctrl-C, then "
    f"make install TORCH='torch==2.13.0 --index-url {INDEX}', or the path of a +cpu wheel for TORCH"
)


def answers(index: str, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether the index lists torch within so many seconds, all waits together."""
    heard = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{index}/torch/", timeout=seconds) as page:
                page.read(1)
                heard.set()
        except (OSError, ValueError):  # ValueError: no URL
            pass

    asking = threading.Thread(target=ask, daemon=True)  # the resolver has a patience of its own
    asking.start()
    asking.join(seconds)
    return heard.is_set()


def brings_cuda(requirement: str) -> bool:
    """Whether what pip would install depends on CUDA's libraries; False if it is installed already."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        look = [*PIP, "--dry-run", "--no-deps", "--report", str(report), requirement]
        if subprocess.run(look, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            return False  # pip will say why when it is asked in earnest
        found = json.loads(report.read_text())["install"]
    return any(needed.startswith(("nvidia", "cuda")) for each in found for needed in each["metadata"].get("requires_dist", []))


def say(line: str) -> None:
    """On stderr."""
    sys.stderr.write(line + "\n")


def install(requirement: str, *options: str, index: str = INDEX) -> int:
    """pip's exit code."""
    if options:
        return subprocess.run([*PIP, requirement, *options]).returncode
    if answers(index) and subprocess.run([*PIP, requirement, "--index-url", index]).returncode == 0:
        return 0
    say(FALLBACK)
    if brings_cuda(requirement):
        say(CUDA)
    return subprocess.run([*PIP, requirement]).returncode


if __name__ == "__main__":
    sys.exit(install(*sys.argv[1:]))
