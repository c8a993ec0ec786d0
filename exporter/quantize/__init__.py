"""Quantize: int8 and fewer bits for encoders that are exported already, each behind a gate.

`QuantizedEncoders` is one of them, `add_precisions` writes them. May import `folder`, `gates`, `graphs`.
"""

from exporter.quantize.int8 import INT8
from exporter.quantize.layer_report import layer_report
from exporter.quantize.precisions import QuantizedEncoders, add_precisions, check_precisions, sample_of, tell

__all__ = [
    "INT8",
    "QuantizedEncoders",
    "add_precisions",
    "check_precisions",
    "layer_report",
    "sample_of",
    "tell",
]
