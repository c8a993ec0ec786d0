"""text.onnx: the text tower as an ONNX graph, written out node by node.

Why not torch's exporter: this graph takes prompt embeddings instead of token ids, pools at given
EOT positions (no ArgMax), keeps the causal mask explicit, has a truly dynamic C and T, and above
all holds no weights: each initializer points into text.safetensors beside it, so the folder holds
every weight once, for training and for inference. Parity with open_clip is gated at export.

Symbols: C prompts, T tokens, W width, H heads, d = W / H, D dimensions of a feature.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_qprompt.manifest import TEXT_WEIGHTS, TextConfig
from edge_qprompt.weights import SCALE

OPSET = 20  # the first with Gelu
IR_VERSION = 10
QUICK_GELU = 1.702
MASKED = -1e9  # a finite minus infinity: no NaN from 0 x inf in any execution provider
NP_TO_ONNX = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "I8": TensorProto.INT8}


class Graph:
    """Nodes and initializers of a graph in the making."""

    def __init__(self, weights: Path) -> None:
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
        """A tensor of text.safetensors, as float32."""
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
        for key, value in (("location", TEXT_WEIGHTS), ("offset", self._data_start + start), ("length", end - start)):
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


def write_text_graph(folder: Path, config: TextConfig, embed_dim: int) -> None:
    """Write `folder/text.onnx` beside an existing `folder/text.safetensors`.

    Inputs: prompts (C, T, W) float32 without positions, eot (C,) int64. Output: features (C, D),
    unit length.
    """
    g = Graph(folder / TEXT_WEIGHTS)
    length = g.op("Slice", g.op("Shape", "prompts"), g.constant([1]), g.constant([2]))  # (1,) = T
    positions = g.op("Slice", g.weight("positional_embedding"), g.constant([0]), length, g.constant([0]))
    mask = np.triu(np.full((config.context_length,) * 2, MASKED), 1)
    square = g.op("Concat", length, length, axis=0)
    mask_now = g.op("Slice", g.constant(mask, np.float32), g.constant([0, 0]), square, g.constant([0, 1]))  # (T, T)
    x = g.op("Add", "prompts", positions)
    for layer in range(config.layers):
        x = _block(g, x, f"transformer.resblocks.{layer}", mask_now, config)
    pooled = g.op("GatherND", x, g.op("Unsqueeze", "eot", g.constant([1])), batch_dims=1)  # (C, W)
    features = g.op("MatMul", g.layer_norm(pooled, "ln_final", config.layer_norm_eps), g.weight("text_projection"))
    norm = g.op("ReduceL2", features, g.constant([-1]), keepdims=1)
    g.nodes.append(helper.make_node("Div", [features, norm], ["features"], name="features"))
    graph = helper.make_graph(
        g.nodes,
        "text",
        [
            helper.make_tensor_value_info("prompts", TensorProto.FLOAT, ["C", "T", config.width]),
            helper.make_tensor_value_info("eot", TensorProto.INT64, ["C"]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["C", embed_dim])],
        g.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    path = folder / "text.onnx"
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def _block(g: Graph, x: str, prefix: str, mask: str, config: TextConfig) -> str:
    head = config.width // config.heads
    h = g.layer_norm(x, f"{prefix}.ln_1", config.layer_norm_eps)
    qkv = g.linear(h, f"{prefix}.attn.in_proj_weight", f"{prefix}.attn.in_proj_bias")  # (C, T, 3W)
    split = g.op("Reshape", qkv, g.constant([0, 0, 3, config.heads, head]))  # (C, T, 3, H, d)
    heads = g.op("Transpose", split, perm=[2, 0, 3, 1, 4])  # (3, C, H, T, d)
    q, k, v = (g.op("Gather", heads, g.constant(i), axis=0) for i in range(3))  # (C, H, T, d)
    scaled = g.op("Mul", q, g.constant(1 / math.sqrt(head), np.float32))
    scores = g.op("Add", g.op("MatMul", scaled, g.op("Transpose", k, perm=[0, 1, 3, 2])), mask)  # (C, H, T, T)
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
