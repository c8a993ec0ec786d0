"""A graph whose products are quantized by a recipe, and the record of what was done to each.

What onnxruntime has integer kernels for, it computes in integers: 8 x 8 bits by QuantizeLinear and DequantizeLinear around a
product, which it fuses; weights of 4 bits by its block-quantized product. Convolutions with weights of 4 bits, for which it has
none, compute the same numbers in float; stored are the 4 bits. An integer convolution also needs its output in 8 bits.

Weights of 8 bits are stored unsigned, with the zero point 128. The integers are the signed ones, but x86 without VNNI adds
unsigned x signed products in 16 bits, which overflow, and unsigned x unsigned ones in 32: so the file is right on any.

Symbols: B photos or prompts, K inputs and N outputs of a matrix product, O output channels of a convolution.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.version_converter import convert_version

from edge_qprompt.backbone import Product, Range, quantized_weight
from edge_qprompt.errors import ExportError
from exporter.graphs import MAX_GRAPH_BYTES
from exporter.quantize.equalize import Feeds, capture, correct_biases, drop_unread, gemms_as_matmuls, initializers
from exporter.quantize.ranges import Sampler, sample

OPSET = 21  # the first with integers of 4 bits
UNSIGNED = 128  # zero point of 8-bit weights
UNSIGNED_4 = 8  # onnxruntime's of 4-bit weights
BLOCKS = (256, 128, 64, 32, 16)  # along K, that its product of 4-bit weights takes; all of a column have the same scale here
INTEGERS, FLOATS = 4, 0  # of that product's accuracy levels: activations become integers of 8 bits a block, or stay as they are
MICROSOFT = "com.microsoft"  # whose kernel it is
FUSED = ("Relu", "Clip")  # become part of the convolution before them

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """Bits of weights, of the activations that meet weights, and of those that meet each other in attention.

    `integers` lets products of 4-bit weights compute in integers, which rounds their activations once more, to 8 bits.
    """

    weights: int
    activations: int
    attention: int
    integers: bool = False


@dataclass(frozen=True)
class Calibrated:
    """A float graph that has seen calibration photos or prompts.

    Attributes:
        model: the graph.
        products: nodes that are quantized, in the graph's order.
        weights: of those that have some, by node name: output channels first.
        outputs: where the output of a convolution can be rounded, by its name: behind what is fused with it.
        samplers: of their activations, by tensor name.
        means: of the convolutions' input channels, by node name.
    """

    model: onnx.ModelProto
    products: tuple[onnx.NodeProto, ...]
    weights: dict[str, Array]
    outputs: dict[str, str]
    samplers: dict[str, Sampler]
    means: dict[str, Array]


def folded(path: Path) -> onnx.ModelProto:
    """A graph with all its weights within and as float32, constants folded; weights may lie beside `path`.

    Raises:
        ExportError: it is too large for one file.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "folded.onnx"
        options.optimized_model_filepath = str(target)
        source = onnx.load(path)
        if (held := sum(len(tensor.raw_data) for tensor in source.graph.initializer)) > MAX_GRAPH_BYTES:
            raise ExportError(
                f"{path.name} has {held / 1e9:.1f} GB of weights, at most {MAX_GRAPH_BYTES / 1e9:.1f} can be quantized: "
                "choose a smaller model"
            )
        ort.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
        model = onnx.load(target)
    gemms_as_matmuls(model)
    return convert_version(model, OPSET)


def calibrate(model: onnx.ModelProto, batches: Sequence[Feeds]) -> Calibrated:
    """Watch the activations of all products but the first convolution, which reads pixels, and the last projection.

    Args:
        model: of `folded`.
        batches: inputs of the graph, some photos or prompts each.
    """
    weights = _weights(model)
    last = max(i for i, node in enumerate(model.graph.node) if node.name in weights)
    products = [
        node
        for i, node in enumerate(model.graph.node)
        if (node.name in weights and i != last and node.input[0] != model.graph.input[0].name)
        or (node.op_type == "MatMul" and node.name not in weights)
    ]
    outputs = _conv_outputs(model, products)
    inputs = [name for node in products for name in node.input[: 1 if node.name in weights else 2]]
    names = list(dict.fromkeys([*inputs, *outputs.values()]))
    samplers = sample(names, capture(model, names, batches), len(batches))
    means = {node.name: samplers[node.input[0]].channel_mean for node in products if node.name in outputs}
    return Calibrated(model, tuple(products), weights, outputs, samplers, means)


def quantize(
    calibrated: Calibrated, recipe: Recipe, in_float: Collection[str] = ()
) -> tuple[onnx.ModelProto, tuple[Product, ...]]:
    """The graph by a recipe, and the record of its products.

    Args:
        calibrated: of `calibrate`.
        recipe: bits.
        in_float: names of products that are left as they are.
    """
    records = {node.name: _record(calibrated, node, recipe, node.name in in_float) for node in calibrated.products}
    model = onnx.ModelProto()
    model.CopyFrom(calibrated.model)
    rounded = [name for name, record in records.items() if record.weight_bits]
    correct_biases(model, rounded, calibrated.means, recipe.weights)
    writer = _Writer(
        model, recipe, {calibrated.outputs[name]: record.output for name, record in records.items() if record.output}
    )
    for node in model.graph.node:
        writer.add(node, records.get(node.name), calibrated.weights.get(node.name))
    writer.finish()
    if all(each.domain != MICROSOFT for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model, tuple(records.values())


def _weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Constant weights by the name of the product that reads them, output channels first."""
    constants = initializers(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul") and node.input[1] in constants and node.input[0] not in constants:
            values = numpy_helper.to_array(constants[node.input[1]])
            found[node.name] = values if node.op_type == "Conv" else np.ascontiguousarray(values.T)
    return found


def _conv_outputs(model: onnx.ModelProto, products: Sequence[onnx.NodeProto]) -> dict[str, str]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in products:
        if node.op_type == "Conv":
            output = node.output[0]
            only = readers[output][0] if len(readers[output]) == 1 else node
            found[node.name] = only.output[0] if only.op_type in FUSED else output
    return found


def _record(calibrated: Calibrated, node: onnx.NodeProto, recipe: Recipe, in_float: bool) -> Product:
    weight = calibrated.weights.get(node.name)
    names = node.input[: 1 if weight is not None else 2]
    if in_float:
        return Product(node.name, 0, (None,) * len(names), 0.0, 0.0)
    bits = recipe.attention if weight is None else recipe.activations
    fits = [calibrated.samplers[name].fit(bits) for name in names]
    in_integers = node.op_type == "Conv" and recipe.weights == recipe.activations == 8
    lost = 0.0
    if weight is not None:
        integers, scale = quantized_weight(weight, recipe.weights)
        back = integers * scale.reshape(-1, *[1] * (weight.ndim - 1))
        lost = float(np.square(back - weight).sum() / max(np.square(weight).sum(), np.finfo(np.float32).tiny))
    return Product(
        node.name,
        0 if weight is None else recipe.weights,
        tuple(fit.range for fit in fits),
        lost,
        max(fit.error for fit in fits),
        calibrated.samplers[calibrated.outputs[node.name]].fit(8).range if in_integers else None,
    )


class _Writer:
    """Puts what quantizes in front of the products of a graph.

    Args:
        model: the graph, changed by `finish`.
        recipe: how to compute.
        outputs: tensors that are rounded for all that read them.
    """

    def __init__(self, model: onnx.ModelProto, recipe: Recipe, outputs: Mapping[str, Range]) -> None:
        self._graph, self._outputs = model.graph, outputs
        self._level = INTEGERS if recipe.integers else FLOATS
        self._constants = initializers(model)
        self._nodes: list[onnx.NodeProto] = []
        self._rounded: dict[tuple[str, Range], str] = {}

    def add(self, node: onnx.NodeProto, product: Product | None, weight: Array | None) -> None:
        """The next node, quantized as `product` says."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        ranges = product.inputs if product else ()
        for i, name in enumerate(node.input):
            if to := (ranges[i] if i < len(ranges) and ranges[i] else self._outputs.get(name)):
                copy.input[i] = self._activation(name, to)
        if product and product.weight_bits and weight is not None:
            self._weight(copy, product, weight)
        self._nodes.append(copy)

    def finish(self) -> None:
        """Take the nodes over, and drop the weights that nothing reads any more."""
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        drop_unread(self._graph)

    def _activation(self, name: str, to: Range) -> str:
        """Rounded once for all that read it."""
        if (name, to) not in self._rounded:
            key = f"{name}.{len(self._rounded)}"
            given = [self._constant(f"{key}.scale", np.float32(to.scale)), self._constant(f"{key}.zero", np.uint8(to.zero))]
            integers = self._op("QuantizeLinear", [name, *given], f"{key}.quantized")
            if to.bits < 8:
                ends = [self._constant(f"{key}.low", np.uint8(0)), self._constant(f"{key}.high", np.uint8((1 << to.bits) - 1))]
                integers = self._op("Clip", [integers, *ends], f"{key}.clipped")
            self._rounded[name, to] = self._op("DequantizeLinear", [integers, *given], f"{key}.rounded")
        return self._rounded[name, to]

    def _weight(self, node: onnx.NodeProto, product: Product, weight: Array) -> None:
        """Give a product its weights as integers."""
        integers, scale = quantized_weight(weight, product.weight_bits)
        if product.output and product.inputs[0] and len(node.input) > 2 and node.input[2] in self._constants:
            scale = self._bias(node, scale, np.float32(product.inputs[0].scale))
            integers = np.round(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        if product.weight_bits == 8:
            self._eight_bits(node, integers, scale)
        elif node.op_type == "MatMul" and integers.shape[1] % BLOCKS[-1] == 0:
            self._blocks(node, integers, scale)
        else:
            self._four_bits(node, integers, scale)

    def _bias(self, node: onnx.NodeProto, scale: Array, step: np.float32) -> Array:
        """Give an integer convolution its bias as integers, which are added to its sums.

        Args:
            node: changed.
            scale: of its weights, (O,).
            step: scale of its input.

        Returns:
            The scale of its weights, larger where the bias would not fit into 32 bits: of a kernel that is all but zero.
        """
        bias = numpy_helper.to_array(self._constants[node.input[2]])
        scale = np.maximum(scale, np.abs(bias) / np.float32(step * (1 << 30)))
        unit = scale * step  # of the sums
        given = [self._constant(f"{node.name}.bias", np.round(bias / unit.astype(np.float64)).astype(np.int32))]
        given.append(self._constant(f"{node.name}.unit", unit))
        node.input[2] = self._op("DequantizeLinear", given, f"{node.name}.shift", axis=0)
        return scale

    def _eight_bits(self, node: onnx.NodeProto, integers: NDArray[np.int8], scale: Array) -> None:
        columns = node.op_type == "MatMul"
        stored = (integers.astype(np.int16) + UNSIGNED).astype(np.uint8)
        given = [
            self._constant(f"{node.name}.weight", np.ascontiguousarray(stored.T) if columns else stored),
            self._constant(f"{node.name}.scale", scale),
            self._constant(f"{node.name}.zero", np.full(len(scale), UNSIGNED, np.uint8)),
        ]
        node.input[1] = self._op("DequantizeLinear", given, f"{node.name}.float", axis=int(columns))

    def _blocks(self, node: onnx.NodeProto, integers: NDArray[np.int8], scale: Array) -> None:
        """As onnxruntime's product of 4-bit weights, (N, K) integers."""
        n, k = integers.shape
        block = next(size for size in BLOCKS if k % size == 0)
        pairs = (integers + UNSIGNED_4).astype(np.uint8).reshape(n, k // block, block // 2, 2)
        del node.input[1:]
        node.input.append(self._constant(f"{node.name}.weight", pairs[..., 0] | pairs[..., 1] << 4))  # (N, blocks, block / 2)
        node.input.append(self._constant(f"{node.name}.scale", scale.repeat(k // block)))
        node.op_type, node.domain = "MatMulNBits", MICROSOFT
        settings = {"K": k, "N": n, "bits": 4, "block_size": block, "accuracy_level": self._level}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in settings.items())

    def _four_bits(self, node: onnx.NodeProto, integers: NDArray[np.int8], scale: Array) -> None:
        """By Cast and Mul, which onnxruntime folds when it loads the graph; DequantizeLinear it would run for every photo."""
        shape = [-1] + [1] * (integers.ndim - 1)
        scale = scale.reshape(shape)
        if node.op_type == "MatMul":
            integers, scale = np.ascontiguousarray(integers.T), scale.T
        flat = np.append(integers.ravel(), np.zeros(integers.size % 2, np.int8)).astype(np.uint8) & 15
        packed = (flat[::2] | flat[1::2] << 4).tobytes()  # two a byte, the first in the low bits
        name = f"{node.name}.weight"
        self._graph.initializer.append(helper.make_tensor(name, TensorProto.INT4, integers.shape, packed, raw=True))
        whole = self._op("Cast", [name], f"{node.name}.whole", to=TensorProto.FLOAT)
        node.input[1] = self._op("Mul", [whole, self._constant(f"{node.name}.scale", scale)], f"{node.name}.float")

    def _constant(self, name: str, value: Any) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output
