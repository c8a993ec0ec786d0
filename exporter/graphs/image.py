"""image.prompted.onnx: CLIP's vision transformer as a graph that also takes learned tokens for each layer.

The tokens stand and are replaced as MaPLe (arXiv 2210.03117) does it in its released code. Without any, this is
image.fp32.onnx. Symbols: B photos, S pixels a side, L tokens of a photo, U width, n learned tokens, D dimensions of a feature.
"""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper

from edge_qprompt.backbone import IMAGE_PROMPTED, IMAGE_WEIGHTS, VisionConfig
from exporter.graphs.graph import Graph, block


def write_vision_graph(folder: Path, config: VisionConfig, size: int, embed_dim: int, *, plain: str = "") -> None:
    """Write `folder/image.prompted.onnx` beside an existing `folder/image.safetensors`.

    With `plain`, a file of that name that takes no prompts.

    Inputs: pixels (B, 3, S, S) float32; prompts (depth, n, U) float32, whose first row is appended to the photo's tokens,
    and whose further rows take its place before layers 1, 2, ... Output: features (B, D), unit length.
    """
    g = Graph(folder / IMAGE_WEIGHTS)
    batch = g.size("pixels", 0)
    x = _tokens(g, config, batch)
    if not plain:
        x = g.op("Concat", x, g.repeat(g.prompts_of("prompts", 0, config.width), batch), axis=1)
    x = g.layer_norm(x, "ln_pre", config.layer_norm_eps)
    length = g.size(x, 1)  # (1,) = L + n
    for layer in range(config.layers):
        if layer and not plain:
            row = g.prompts_of("prompts", layer, config.width)
            photo = g.between(x, g.constant([0]), g.op("Sub", length, g.size(row, 1)))
            x = g.op("Concat", photo, g.repeat(row, batch), axis=1)  # (B, L + n, U)
        x = block(g, x, layer, config)
    pooled = g.layer_norm(g.op("Gather", x, g.constant(0), axis=1), "ln_post", config.layer_norm_eps)  # (B, U)
    inputs = [
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 3, size, size]),
        helper.make_tensor_value_info("prompts", TensorProto.FLOAT, ["depth", "n", config.width]),
    ][: 1 if plain else 2]
    g.save(plain or IMAGE_PROMPTED, g.op("MatMul", pooled, g.weight("proj")), inputs, embed_dim)


def _tokens(g: Graph, config: VisionConfig, batch: str) -> str:
    """The class token and the patches, (B, L, U), with positions."""
    side = [config.patch, config.patch]
    maps = g.op("Conv", "pixels", g.weight("conv1.weight"), kernel_shape=side, strides=side)  # (B, U, S / patch, S / patch)
    rows = g.op("Reshape", maps, g.constant([0, config.width, -1]))  # (B, U, L - 1)
    patches = g.op("Transpose", rows, perm=[0, 2, 1])  # (B, L - 1, U)
    token = g.op("Reshape", g.weight("class_embedding"), g.constant([1, 1, -1]))  # (1, 1, U)
    together = g.op("Concat", g.repeat(token, batch), patches, axis=1)  # (B, L, U)
    return g.op("Add", together, g.weight("positional_embedding"))
