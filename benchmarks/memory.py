"""Memory of a process and of those that it has forked; what they share counts once."""

from __future__ import annotations

import re
from pathlib import Path


def tree_mb(process: int) -> float:
    """Proportional set sizes of a process and its children, added up, 10^6 bytes; 0 where it has ended."""
    try:
        found = re.search(r"^Pss:\s*(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0.0
    own = int(found[1]) * 1024 / 1e6 if found else 0.0
    return own + sum(tree_mb(int(child)) for child in children)
