"""What all benchmarks share: a description of the machine, and where figures are written. Medians are `speed.median_seconds`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "bf16", "i8mm")
DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"


def machine(*packages: str) -> str:
    """One line: cores, processor, what it computes in, versions of packages."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    has = [flag for flag in FEATURES if flag in flags]
    return (
        f"{os.cpu_count()} cores, {fields.get('model name', platform.processor() or platform.machine())}, {' '.join(has)}; "
        f"Python {platform.python_version()}{''.join(', ' + v for v in versions)}"
    )


def publish(name: str, lines: Sequence[str], *packages: str, out: Path | None = None) -> None:
    """Print the lines; with `out`, also put them between the marks <!-- name --> of that file, with command and machine."""
    print("\n".join(lines))
    if out:
        mark = f"<!-- {name} -->"
        before, _, after = out.read_text().split(mark)
        command = " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *_shown(sys.argv[1:])])
        text = "\n".join([mark, f"`{command}` on {machine(*packages)}", "", *lines, mark])
        out.write_text(before + text + after)


def _shown(arguments: Sequence[str]) -> list[str]:
    """The arguments as a reader would give them: absolute paths are this machine's."""
    return [Path(a).name if a.startswith("/") else a for a in arguments]
