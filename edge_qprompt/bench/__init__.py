"""Measuring methods by the papers' protocols, cell by cell.

A `Cell` is one method on one data set with one seed; `PROTOCOLS` makes them, `Lines` keeps what is finished, `report` shows it.
May import every room but `trust`.
"""

from edge_qprompt.bench.cell import Cell, Lines, Row, content_of
from edge_qprompt.bench.protocols import MAIN, PROTOCOLS, SNAPSHOT_EPOCHS

__all__ = [
    "Cell",
    "Lines",
    "MAIN",
    "PROTOCOLS",
    "Row",
    "SNAPSHOT_EPOCHS",
    "content_of",
]
