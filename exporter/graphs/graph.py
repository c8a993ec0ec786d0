"""A graph of ONNX, written out node by node, whose weights stay in the safetensors file beside it.

Why not torch's exporter: such a graph holds no weights, each initializer points into that file, so the folder holds
every weight once, for training and for inference; and its sizes are truly dynamic. Parity with open_clip is gated at export.

Symbols: C prompts or photos, T tokens, W width, H heads, d = W / H, n learned tokens of a layer, D dimensions of a feature.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_qprompt.backbone import SCALE, TextConfig, VisionConfig

OPSET = 20  # the first with Gelu
IR_VERSION = 10
QUICK_GELU = 1.702
NP_TO_ONNX = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "I8": TensorProto.INT8}


class Graph:
    """Nodes and initializers of a graph in the making.

    Args:
        weights: a safetensors file; the graph is saved beside it.
    """

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            self._stored: dict[str, Any] = json.loads(file.read(length))
        self._stored.pop("__metadata__", None)
        self._data_start = 8 + length
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return that output's name."""
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A small inline constant."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def weight(self, name: str) -> str:
        """A tensor of the weights, as float32."""
        stored = self._external(name)
        if name + SCALE in self._stored:
            scale = self.op("Cast", self._external(name + SCALE), to=TensorProto.FLOAT)
            return self.op("DequantizeLinear", stored, scale, axis=0)
        if self._stored[name]["dtype"] == "F16":
            return self.op("Cast", stored, to=TensorProto.FLOAT)
        return stored

    def _external(self, name: str) -> str:
        entry = self._stored[name]
        start, end = entry["data_offsets"]
        tensor = TensorProto(name=name, data_type=NP_TO_ONNX[entry["dtype"]], dims=entry["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._weights.name), ("offset", self._data_start + start), ("length", end - start)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name

    def linear(self, x: str, prefix: str, bias: str) -> str:
        """x W^T + b; the transposition is folded when the graph is loaded."""
        product = self.op("MatMul", x, self.op("Transpose", self.weight(prefix), perm=[1, 0]))
        return self.op("Add", product, self.weight(bias))

    def layer_norm(self, x: str, prefix: str, eps: float) -> str:
        """LayerNorm over the last axis."""
        scale, shift = self.weight(f"{prefix}.weight"), self.weight(f"{prefix}.bias")
        return self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=eps)

    def size(self, x: str, axis: int) -> str:
        """The length of an axis, (1,)."""
        return self.op("Slice", self.op("Shape", x), self.constant([axis]), self.constant([axis + 1]))

    def repeat(self, x: str, count: str) -> str:
        """(1, n, W) to (count, n, W)."""
        return self.op("Expand", x, self.op("Concat", count, self.constant([1, 1]), axis=0))

    def between(self, x: str, start: str, end: str) -> str:
        """Tokens start to end of (C, T, W); both (1,)."""
        return self.op("Slice", x, start, end, self.constant([1]))

    def prompts_of(self, prompts: str, layer: int, width: int) -> str:
        """Row `layer` of (depth, n, W) as (1, n, W), or (1, 0, W) where there is no such row."""
        row = self.op("Slice", prompts, self.constant([layer]), self.constant([layer + 1]), self.constant([0]))
        return self.op("Reshape", row, self.constant([1, -1, width]))

    def save(self, name: str, features: str, inputs: Sequence[onnx.ValueInfoProto], embed_dim: int) -> None:
        """Write `name` beside the weights.

        Args:
            name: of the file; its first part names the graph.
            features: (C, D) of any length; the graph's output has length 1.
            inputs: of the graph.
            embed_dim: D.
        """
        norm = self.op("ReduceL2", features, self.constant([-1]), keepdims=1)
        self.nodes.append(helper.make_node("Div", [features, norm], ["features"], name="features"))
        output = helper.make_tensor_value_info(
            "features", TensorProto.FLOAT, [inputs[0].type.tensor_type.shape.dim[0].dim_param, embed_dim]
        )
        graph = helper.make_graph(self.nodes, name.partition(".")[0], list(inputs), [output], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        path = self._weights.with_name(name)
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(path))


def block(g: Graph, x: str, layer: int, config: TextConfig | VisionConfig, mask: str | None = None) -> str:
    """One residual attention block.

    Args:
        x: (C, T, W).
        layer: 0 for the first.
        config: of the tower.
        mask: (T, T), added to the scores.
    """
    prefix, head = f"transformer.resblocks.{layer}", config.width // config.heads
    h = g.layer_norm(x, f"{prefix}.ln_1", config.layer_norm_eps)
    qkv = g.linear(h, f"{prefix}.attn.in_proj_weight", f"{prefix}.attn.in_proj_bias")  # (C, T, 3W)
    split = g.op("Reshape", qkv, g.constant([0, 0, 3, config.heads, head]))  # (C, T, 3, H, d)
    heads = g.op("Transpose", split, perm=[2, 0, 3, 1, 4])  # (3, C, H, T, d)
    q, k, v = (g.op("Gather", heads, g.constant(i), axis=0) for i in range(3))  # (C, H, T, d)
    scaled = g.op("Mul", q, g.constant(1 / math.sqrt(head), np.float32))
    scores = g.op("MatMul", scaled, g.op("Transpose", k, perm=[0, 1, 3, 2]))  # (C, H, T, T)
    if mask is not None:
        scores = g.op("Add", scores, mask)
    context = g.op("MatMul", g.op("Softmax", scores, axis=-1), v)  # (C, H, T, d)
    merged = g.op("Reshape", g.op("Transpose", context, perm=[0, 2, 1, 3]), g.constant([0, 0, config.width]))  # (C, T, W)
    x = g.op("Add", x, g.linear(merged, f"{prefix}.attn.out_proj.weight", f"{prefix}.attn.out_proj.bias"))
    h = g.layer_norm(x, f"{prefix}.ln_2", config.layer_norm_eps)
    h = _activation(g, g.linear(h, f"{prefix}.mlp.c_fc.weight", f"{prefix}.mlp.c_fc.bias"), config.activation)
    return g.op("Add", x, g.linear(h, f"{prefix}.mlp.c_proj.weight", f"{prefix}.mlp.c_proj.bias"))


def _activation(g: Graph, x: str, kind: str) -> str:
    if kind == "gelu":
        return g.op("Gelu", x)
    return g.op("Mul", x, g.op("Sigmoid", g.op("Mul", x, g.constant(QUICK_GELU, np.float32))))
