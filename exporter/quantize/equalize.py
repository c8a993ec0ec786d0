"""Float rewrites that prepare an ONNX graph for int8: what is quantized afterwards loses less.

Both keep the float graph's function (the second: up to the error that it takes back):
* smoothing: a LayerNorm's channels are divided by s, the rows of the matrices that read it are
  multiplied by s. A few channels of a ViT are a hundred times larger than the rest, and one scale
  for a whole activation would leave the rest a handful of levels (SmoothQuant, arXiv 2211.10438).
* bias correction: rounding a kernel shifts the mean of its output; the expected shift is taken out
  of the bias (arXiv 1906.04721, section 4.2). For a depthwise kernel of nine weights it is large.

Symbols: B photos, S pixels a side, W width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_qprompt.backbone import quantized_weight

ALPHA = 0.5  # of the range of activations goes to the weights; the paper's setting
SMALLEST = 1e-5  # of a channel's range: dead channels

Array = NDArray[np.float32]
Feeds = Mapping[str, NDArray[Any]]


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Constants of a graph by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def gemms_as_matmuls(model: onnx.ModelProto) -> None:
    """Rewrite every plain Gemm with constant weights as MatMul and Add, in place: the form the quantizer knows."""
    constants = initializers(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = settings.get("alpha", 1) == 1 and settings.get("beta", 1) == 1 and not settings.get("transA")
        if node.op_type != "Gemm" or not plain or node.input[1] not in constants:
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        product = helper.make_node("MatMul", [node.input[0], ""], [f"{node.output[0]}.product"], name=f"{node.name}.product")
        _replace(model, product, 1, weight.T if settings.get("transB") else weight)
        if len(node.input) > 2:
            nodes += [product, helper.make_node("Add", [product.output[0], node.input[2]], node.output, name=f"{node.name}.sum")]
        else:
            product.output[0] = node.output[0]
            nodes.append(product)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unread(model.graph)


def smooth(model: onnx.ModelProto, nodes: Collection[str], batches: Sequence[Feeds]) -> int:
    """Move the range of LayerNorm outputs into the matrices that read them, in place.

    Args:
        model: changed.
        nodes: names of MatMul nodes that will be quantized; a LayerNorm is smoothed if only these read it.
        batches: inputs of the graph: calibration photos, some each.

    Returns:
        The number of LayerNorms that were smoothed.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    norms = {}
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and (found := _matrices(node.output[0], readers, nodes)):
            norms[node.output[0]] = (node, found)
    if not norms:
        return 0
    largest: dict[str, Array] = {}
    for captured in capture(model, list(norms), batches):
        for name, values in captured.items():
            now = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)  # (W,)
            largest[name] = np.maximum(largest.get(name, now), now)
    for name, (norm, matrices) in norms.items():
        _move_range(model, norm, matrices, largest[name])
    drop_unread(model.graph)
    return len(norms)


def _matrices(tensor: str, readers: Mapping[str, list[onnx.NodeProto]], nodes: Collection[str]) -> list[onnx.NodeProto]:
    """The MatMuls that read a tensor, directly or transposed; empty if anything else reads it too."""
    found: list[onnx.NodeProto] = []
    for node in readers.get(tensor, []):
        if node.op_type == "MatMul" and node.name in nodes and node.input[0] == tensor:
            found.append(node)
            continue
        last_stays = node.op_type == "Transpose" and (perm := node.attribute[0].ints) and perm[-1] == len(perm) - 1
        further = _matrices(node.output[0], readers, nodes) if last_stays else []
        if not further:
            return []
        found += further
    return found


def _move_range(model: onnx.ModelProto, norm: onnx.NodeProto, matrices: list[onnx.NodeProto], largest: Array) -> None:
    constants = initializers(model)
    weights = [numpy_helper.to_array(constants[node.input[1]]) for node in matrices]  # (W, out) each
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)  # (W,)
    s = np.maximum(largest, SMALLEST) ** ALPHA / np.maximum(rows, SMALLEST) ** (1 - ALPHA)
    s = np.maximum(s / np.exp(np.log(s).mean()), SMALLEST).astype(np.float32)  # (W,), geometric mean 1
    for i in range(1, len(norm.input)):  # scale and shift
        _replace(model, norm, i, numpy_helper.to_array(constants[norm.input[i]]) / s)
    for node, weight in zip(matrices, weights, strict=True):
        _replace(model, node, 1, weight * s[:, None])


def correct_biases(model: onnx.ModelProto, nodes: Collection[str], means: Mapping[str, Array], bits: int) -> None:
    """Take the shift that rounding the kernels will cause out of the biases of Conv nodes, in place.

    Args:
        model: changed.
        nodes: names of those that will be quantized, symmetric, a scale an output channel.
        means: of their input channels, over photos and positions, by node name.
        bits: of the quantized weights.
    """
    constants = initializers(model)
    for node in model.graph.node:
        if node.name not in nodes or node.name not in means or len(node.input) < 3 or node.input[2] not in constants:
            continue
        kernel = numpy_helper.to_array(constants[node.input[1]])  # (out, in / groups, h, w)
        integers, scale = quantized_weight(kernel, bits)
        error = (integers * scale[:, None, None, None] - kernel).sum(axis=(2, 3))  # (out, in / groups)
        groups = means[node.name].size // error.shape[1]
        mean = means[node.name].reshape(groups, error.shape[1]).repeat(len(error) // groups, axis=0)  # (out, in / groups)
        bias = numpy_helper.to_array(constants[node.input[2]])
        _replace(model, node, 2, bias - (error * mean).sum(axis=1))
    drop_unread(model.graph)


def capture(model: onnx.ModelProto, names: Sequence[str], batches: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
    """Values of inner tensors, a batch at a time."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {output.name for output in probe.graph.output}
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for batch in batches:
        yield dict(zip(names, session.run(list(names), dict(batch)), strict=True))


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, position: int, values: Array) -> None:
    """Give a node a constant of its own; the old one may have other readers."""
    name = f"{node.name}.{position}.int8"
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
    node.input[position] = name


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove constants that no node reads, in place."""
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
