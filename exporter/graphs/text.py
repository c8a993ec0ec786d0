"""text.onnx and text.prompted.onnx: the text tower as a graph that takes prompt embeddings and EOT positions.

Symbols: C prompts, T tokens, W width, D dimensions of a feature, n learned tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from edge_qprompt.backbone import TEXT_ONNX, TEXT_PROMPTED, TEXT_WEIGHTS, TextConfig
from exporter.graphs.graph import Graph, block

MASKED = -1e9  # a finite minus infinity: no NaN from 0 x inf in any execution provider


def write_text_graph(folder: Path, config: TextConfig, embed_dim: int, *, deep: bool = False) -> None:
    """Write `folder/text.onnx`, or with `deep` `folder/text.prompted.onnx`, beside an existing `folder/text.safetensors`.

    Inputs: prompts (C, T, W) float32 without positions, eot (C,) int64; with `deep` also deep (depth - 1, n, W) float32,
    which takes the place of tokens 1 to n before layers 1, 2, ... Output: features (C, D), unit length.
    """
    g = Graph(folder / TEXT_WEIGHTS)
    length = g.size("prompts", 1)  # (1,) = T
    positions = g.op("Slice", g.weight("positional_embedding"), g.constant([0]), length, g.constant([0]))
    mask = np.triu(np.full((config.context_length,) * 2, MASKED), 1)
    square = g.op("Concat", length, length, axis=0)
    mask_now = g.op("Slice", g.constant(mask, np.float32), g.constant([0, 0]), square, g.constant([0, 1]))  # (T, T)
    x = g.op("Add", "prompts", positions)
    for layer in range(config.layers):
        if deep and layer:
            x = _behind_sot(g, x, g.prompts_of("deep", layer - 1, config.width), length)
        x = block(g, x, layer, config, mask_now)
    pooled = g.op("GatherND", x, g.op("Unsqueeze", "eot", g.constant([1])), batch_dims=1)  # (C, W)
    features = g.op("MatMul", g.layer_norm(pooled, "ln_final", config.layer_norm_eps), g.weight("text_projection"))
    inputs = [
        helper.make_tensor_value_info("prompts", TensorProto.FLOAT, ["C", "T", config.width]),
        helper.make_tensor_value_info("eot", TensorProto.INT64, ["C"]),
    ]
    if deep:
        inputs.append(helper.make_tensor_value_info("deep", TensorProto.FLOAT, ["layers", "n", config.width]))
    g.save(TEXT_PROMPTED if deep else TEXT_ONNX, features, inputs, embed_dim)


def _behind_sot(g: Graph, x: str, row: str, length: str) -> str:
    """(C, T, W) with tokens 1 to n replaced by (1, n, W); length is T."""
    one = g.constant([1])
    sot, rest = g.between(x, g.constant([0]), one), g.between(x, g.op("Add", one, g.size(row, 1)), length)
    return g.op("Concat", sot, g.repeat(row, g.size(x, 0)), rest, axis=1)  # (C, T, W)
