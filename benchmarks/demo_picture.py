"""Draws docs/demo.svg: what `edge-qprompt demo` prints on this machine.

python benchmarks/demo_picture.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

TARGET = Path(__file__).parent.parent / "docs" / "demo.svg"
WIDTH = 118


def main() -> None:
    """Run the demo in a temporary folder and draw its output."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "device_agent", "demo", "--out", f"{folder}/demo"]
        fresh = os.environ | {"EDGE_QPROMPT_CACHE": f"{folder}/cache"}  # photos are encoded as on a new machine
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env=fresh).stdout.replace(folder, "")
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere)
        for line in printed.rstrip().splitlines():
            style = "bold" if line.startswith("#") else "green" if line.startswith("$") else ""
            console.print(Text(line, style=style))
        console.save_svg(str(TARGET), title="make demo")


if __name__ == "__main__":
    main()
