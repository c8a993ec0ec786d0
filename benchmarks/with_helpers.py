"""Lets a benchmark import what the tests share: reference implementations, hostile photos."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))
