"""Dynamic int8 of a transformer's image graph, with onnxruntime's tools: activations get their scale when they are there.

MatMuls with constant weights compute in integers, all else in float. Weights have 7 bits, symmetric, with a scale an output
channel: processors without VNNI add products of 8 x 8 bits in 16 bits, which overflow, and the file has to be right on any.
Never quantized: the last projection, LayerNorm, attention, and additions.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime import quantization as ort_quantization

from edge_qprompt.backbone import Product
from exporter.quantize.equalize import Feeds, smooth


@dataclass(frozen=True)
class DynamicGraph:
    """A float graph, smoothed.

    Attributes:
        model: the graph.
        nodes: names of the products that may be quantized, in its order.
    """

    model: onnx.ModelProto
    nodes: tuple[str, ...]

    @classmethod
    def of(cls, model: onnx.ModelProto, nodes: Sequence[str], batches: Sequence[Feeds]) -> DynamicGraph:
        """A copy of the graph, smoothed by calibration photos.

        Args:
            model: of `quantized_graph.folded`.
            nodes: names of its products of weights.
            batches: calibration photos.
        """
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        smooth(copy, nodes, batches)
        return cls(copy, tuple(nodes))

    def write(self, path: Path, nodes: Collection[str]) -> tuple[Product, ...]:
        """Write the graph with these of `self.nodes` quantized; their ranges are not known beforehand, so nothing is returned."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        with quiet():
            ort_quantization.quantize_dynamic(
                model, path, ["MatMul"], per_channel=True, reduce_range=True, nodes_to_quantize=list(nodes)
            )
        return ()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime's quantizer advises on the root logger; what matters is measured afterwards."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
