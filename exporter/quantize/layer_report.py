"""What quantizing costs each layer, as Markdown for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edge_qprompt.backbone import Product, Quantization

PARTS = ("q, k and v", "scores", "context", "output", "MLP in", "MLP out")  # of a transformer's layer, in the graph's order
HEAD = "| layer | weights | activations | weights, dB | activations, dB |\n| --- | --- | --- | --- | --- |"


def layer_report(name: str, precisions: Mapping[str, Quantization]) -> str:
    """A page of tables: signal over error in decibels, of weights, and of activations on calibration photos.

    Args:
        name: of the backbone.
        precisions: by name.
    """
    lines = [f"# {name}, layer by layer", "", "Signal over quantization error in dB: 6 dB are a bit, below 15 a layer suffers."]
    for precision, quantization in precisions.items():
        for tower, products in (("image", quantization.image), ("text", quantization.text)):
            lines += ["", f"## {precision}, {tower} encoder", "", *_table(products)]
    return "\n".join(lines) + "\n"


def _table(products: Sequence[Product]) -> list[str]:
    if not products:
        return ["In float, or with ranges found anew for each photo."]
    attention = any(not product.weight_bits and len(product.inputs) == 2 for product in products)
    rows = []
    for i, product in enumerate(products):
        place = f"{i // len(PARTS)}, {PARTS[i % len(PARTS)]}" if attention and len(products) % len(PARTS) == 0 else product.node
        bits = [str(each.bits) if each else "float" for each in product.inputs]
        weights = str(product.weight_bits) if product.weight_bits else "" if len(product.inputs) == 2 else "float"
        cells = (place, weights, " x ".join(bits), _decibels(product.weight_error), _decibels(product.input_error))
        rows.append("| " + " | ".join(cells) + " |")
    return [HEAD, *rows]


def _decibels(error: float) -> str:
    return f"{-10 * math.log10(error):.1f}" if error > 0 else ""
