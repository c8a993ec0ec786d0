"""An image graph whose nodes can be quantized in any selection, with onnxruntime's tools.

Transformer towers (more MatMuls than Convs): dynamic quantization. MatMuls with constant weights
compute in integers, activations get their scale at run time. Convolutional towers: static
quantization (QDQ) of both, with scales from calibration photos. Weights are symmetric int8 with a scale an output channel,
activations uint8. Never quantized: the first convolution, which reads pixels, the last projection,
LayerNorm, softmax, and additions.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization as ort_quantization

from exporter.equalize import PHOTOS_A_RUN, channel_means, correct_biases, gemms_as_matmuls, initializers, smooth

SAFE_FEATURES = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}  # of /proc/cpuinfo: u8 x s8 in 32 bits
FUSED = ("Relu", "Clip")  # become part of the convolution before them
LEVELS, REDUCED_LEVELS = 127, 64  # of a weight on one side of zero

Array = NDArray[np.float32]


def saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor adds two products u8 x s8 in 16 bits, so that weights may have 7 bits only.

    Any x86 without VNNI does; where nothing is known, yes is the safe answer.
    """
    if platform.machine().lower() in ("aarch64", "arm64"):
        return False
    try:
        return not SAFE_FEATURES & set(cpuinfo.read_text().split())
    except OSError:
        return True


class _Photos(ort_quantization.CalibrationDataReader):  # type: ignore[misc]
    """Calibration photos in small batches, as onnxruntime asks for them."""

    def __init__(self, pixels: Array) -> None:
        self._parts = iter([pixels[i : i + PHOTOS_A_RUN] for i in range(0, len(pixels), PHOTOS_A_RUN)])

    def get_next(self) -> dict[str, Array] | None:
        """The next batch, or None at the end."""
        part = next(self._parts, None)
        return None if part is None else {"pixels": part}


@dataclass(frozen=True)
class Int8Graph:
    """A float graph, prepared to be quantized.

    Attributes:
        model: the float graph.
        nodes: names of the nodes that may be quantized, in the graph's order.
        static: how, see the module.
        reduced: weights of 7 bits.
        ranges: of activations, onnxruntime's; static only.
        means: of the convolutions' input channels; static only.
    """

    model: onnx.ModelProto
    nodes: tuple[str, ...]
    static: bool
    reduced: bool
    ranges: Any
    means: dict[str, Array]

    def write(self, path: Path, nodes: Collection[str]) -> None:
        """Write the graph with these of `self.nodes` quantized."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        with quiet():
            if self.static:
                self._write_static(model, path, nodes)
            else:
                ort_quantization.quantize_dynamic(
                    model, path, ["MatMul"], per_channel=True, reduce_range=self.reduced, nodes_to_quantize=list(nodes)
                )

    def _write_static(self, model: onnx.ModelProto, path: Path, nodes: Collection[str]) -> None:
        correct_biases(model, nodes, self.means, REDUCED_LEVELS if self.reduced else LEVELS)
        outputs = {name for node in model.graph.node if node.name in nodes for name in node.output}
        fused = [node.name for node in model.graph.node if node.op_type in FUSED and node.input[0] in outputs]
        quantizer = ort_quantization.QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=self.reduced,
            weight_qType=ort_quantization.QuantType.QInt8,
            activation_qType=ort_quantization.QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=[*nodes, *fused],
            nodes_to_exclude=[],
            op_types_to_quantize=["Conv", "MatMul", *FUSED],
            extra_options={},
        )
        quantizer.quantize_model()
        onnx.save(quantizer.model.model, path)


def prepare(path: Path, pixels: Array) -> Int8Graph:
    """Read a float image graph and calibrate it.

    Args:
        path: image.fp32.onnx.
        pixels: (B, 3, S, S) float32, calibration photos.
    """
    model = onnx.load(path)
    gemms_as_matmuls(model)
    nodes, static = _quantizable(model)
    reduced = saturates()
    if not static:
        smooth(model, nodes, pixels)
        return Int8Graph(model, nodes, static, reduced, None, {})
    return Int8Graph(model, nodes, static, reduced, _ranges(model, pixels), channel_means(model, nodes, pixels))


def _quantizable(model: onnx.ModelProto) -> tuple[tuple[str, ...], bool]:
    """Names of the nodes with constant weights but the first convolution and the last projection; and static or not."""
    constants = initializers(model)
    weighted = [
        node
        for node in model.graph.node
        if node.op_type in ("Conv", "MatMul") and node.input[1] in constants and node.input[0] not in constants
    ]
    convs = [node for node in weighted[:-1] if node.op_type == "Conv"][1:]
    matmuls = [node for node in weighted[:-1] if node.op_type == "MatMul"]
    static = len(convs) > len(matmuls)
    return tuple(node.name for node in weighted if node in (convs + matmuls if static else matmuls)), static


def _ranges(model: onnx.ModelProto, pixels: Array) -> Any:
    with tempfile.TemporaryDirectory() as scratch, quiet():
        source = Path(scratch) / "float.onnx"
        onnx.save(model, source)
        calibrator = ort_quantization.create_calibrator(
            source, ["Conv", "MatMul", *FUSED], augmented_model_path=str(Path(scratch) / "probe.onnx")
        )
        calibrator.collect_data(_Photos(pixels))
        return calibrator.compute_data()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime's quantizer advises on the root logger; what matters is measured afterwards."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
