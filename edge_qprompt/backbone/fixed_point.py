"""How the encoders of a precision are quantized: what quantization.PRECISION.json of a backbone folder says.

Weights are signed and symmetric, with a scale an output channel; activations unsigned, with one scale and zero point a tensor,
fixed when the backbone was quantized. LayerNorm, softmax and additions are not quantized. The scheme is P4Q's
(arXiv 2409.17634). The exporter writes the file and graphs that compute so; `learn` computes the same with gradients.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone.manifest import build
from edge_qprompt.errors import BackboneError

MAX_FILE_BYTES = 1 << 20

Array = NDArray[np.float32]


def quantization_json(precision: str) -> str:
    """Name of the file in a backbone folder."""
    return f"quantization.{precision}.json"


@dataclass(frozen=True)
class Range:
    """Of an activation: x becomes scale * (clip(round(x / scale) + zero, 0, 2^bits - 1) - zero)."""

    bits: int
    scale: float
    zero: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8 or not 0 < self.scale < float("inf") or not 0 <= self.zero < 1 << self.bits:
            raise BackboneError(f"a range that cannot be: {self}")


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution.

    Attributes:
        node: its name in the graph.
        weight_bits: of its weights; 0 for a product of two activations, and where the weights stay in float.
        inputs: of its activations, one, or two for a product of two; None stays in float.
        weight_error: of the quantized weights, squared, relative to their own square; 0 without weights.
        input_error: the same of its activations over the calibration photos, the larger one of two.
        output: of what it gives, for convolutions that compute in integers; None for all else.
    """

    node: str
    weight_bits: int
    inputs: tuple[Range | None, ...]
    weight_error: float
    input_error: float
    output: Range | None = None

    def __post_init__(self) -> None:
        if self.weight_bits not in (0, *range(2, 9)) or len(self.inputs) not in (1, 2):
            raise BackboneError(f"a product that cannot be: {self}")


@dataclass(frozen=True)
class Quantization:
    """How the products of a quantized backbone's encoders were rounded.

    Attributes:
        image, text: products of a tower in the graph's order. Those of a transformer are six a layer: q, k and v; scores;
            context; output; the two of the MLP. Empty where products are not known beforehand.
    """

    image: tuple[Product, ...]
    text: tuple[Product, ...]

    @classmethod
    def read(cls, path: Path) -> Quantization:
        """Read and check a file.

        Raises:
            BackboneError: it is missing or damaged.
        """
        try:
            with path.open("rb") as file:
                return cast(Quantization, build(cls, json.loads(file.read(MAX_FILE_BYTES))))
        except (OSError, ValueError, TypeError, RecursionError, OverflowError, BackboneError) as error:
            raise BackboneError(f"{path} cannot be read ({error}): quantize the backbone again") from error

    def to_json(self) -> str:
        """What `read` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def quantized_weight(weight: Array, bits: int) -> tuple[NDArray[np.int8], Array]:
    """Integers and scales of weights; nothing is clipped.

    Args:
        weight: (O, ...) float32, output channels first.
        bits: 2 to 8.

    Returns:
        (O, ...) int8 within 2^(bits - 1) - 1 of zero, and (O,) float32.
    """
    levels = np.float32((1 << bits - 1) - 1)
    flat = weight.reshape(len(weight), -1)
    scale = np.maximum(np.abs(flat).max(axis=1), np.finfo(np.float32).tiny * levels) / levels  # (O,)
    return np.round(flat / scale[:, None]).astype(np.int8).reshape(weight.shape), scale
