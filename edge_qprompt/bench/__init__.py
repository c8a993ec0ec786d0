"""Measuring methods by the papers' protocols, cell by cell.

A `Cell` is one method on one data set with one seed; `PROTOCOLS` makes them, `cells_of` for several numbers of photos, `Lines`
keeps what is finished, `report` and `pictures` show it. May import every room but `trust`.
"""

from edge_qprompt.bench.cell import Cell, Lines, Row, content_of
from edge_qprompt.bench.protocols import MAIN, PROTOCOLS, SNAPSHOT_EPOCHS, cells_of
from edge_qprompt.bench.regression import REGRESSION
from edge_qprompt.bench.report import shots_of

__all__ = [
    "Cell",
    "Lines",
    "MAIN",
    "PROTOCOLS",
    "REGRESSION",
    "Row",
    "SNAPSHOT_EPOCHS",
    "cells_of",
    "content_of",
    "shots_of",
]
