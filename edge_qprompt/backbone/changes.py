"""What a pack changes in the encoders: learned tokens inside the layers (MaPLe), or low-rank changes of the weights (LoRA).

Symbols: W and U widths of text and image tower, n learned tokens, r rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone.manifest import IMAGE_PROMPTED, TEXT_PROMPTED, Manifest, TextConfig, VisionConfig
from edge_qprompt.backbone.session import Session
from edge_qprompt.backbone.weights import Weights
from edge_qprompt.errors import BackboneError, PackError
from edge_qprompt.pack import Pack, Role

ROLES = frozenset(
    {Role.DEEP_CTX, Role.VISUAL_CTX, Role.LORA_TEXT_IN, Role.LORA_TEXT_OUT, Role.LORA_IMAGE_IN, Role.LORA_IMAGE_OUT}
)
QKV = 3  # what a low-rank change is made for

Array = NDArray[np.float32]


@dataclass(frozen=True)
class LowRank:
    """Changes of the matrices that make queries, keys and values: OUT @ IN is added to each.

    Attributes:
        inner: IN, (layers, 3, r, W) float32.
        outer: OUT, (layers, 3, W, r) float32.
    """

    inner: Array
    outer: Array

    def merged(self, weights: Weights) -> dict[str, NDArray[np.floating]]:
        """The changed matrices (3W, W) by name, rounded to the type in which the tower is stored.

        Raises:
            PackError: one is not finite.
        """
        found: dict[str, NDArray[np.floating]] = {}
        for layer, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True)):
            name = f"transformer.resblocks.{layer}.attn.in_proj_weight"
            frozen = weights.tensor(name)  # (3W, W)
            with np.errstate(over="ignore", invalid="ignore"):
                found[name] = weights.as_stored(name, frozen + (outer @ inner).reshape(frozen.shape))
            if not np.isfinite(found[name]).all():
                raise PackError(f"the pack's change of {name} is beyond what the tower can hold: learn again with a lower --lr")
        return found


@dataclass(frozen=True)
class EncoderChanges:
    """What a pack changes inside the encoders: prompts in their layers, or low-rank additions to their weights.

    Attributes:
        visual: (depth, n, U) float32, tokens of image layers 0, 1, ...; depth 0 if there are none.
        deep: (depth - 1, n, W) float32, tokens of text layers 1, 2, ...; (0, 0, W) if there are none.
        image, text: changes of the towers' weights.
        digest: hex, of the tensors that all this was read from.
    """

    visual: Array
    deep: Array
    image: LowRank | None
    text: LowRank | None
    digest: str

    @classmethod
    def of(cls, pack: Pack, manifest: Manifest) -> EncoderChanges | None:
        """What a pack changes in the encoders of its backbone, or None if nothing.

        Raises:
            BackboneError: the backbone's encoders cannot be changed.
            PackError: a tensor does not fit the encoders, or lacks its other half.
        """
        tensors = [tensor for tensor in pack.tensors if tensor.role in ROLES]
        if not tensors:
            return None
        if (vision := manifest.vision) is None:
            raise BackboneError(
                f"the pack has learned tokens or weights inside the encoders, which backbone {manifest.name} cannot take: "
                "it is no vision transformer, or was exported by an older version (then export it again)"
            )
        return cls(
            _visual(pack, vision, manifest.text),
            _deep(pack, manifest.text),
            _low_rank(pack, Role.LORA_IMAGE_IN, Role.LORA_IMAGE_OUT, vision),
            _low_rank(pack, Role.LORA_TEXT_IN, Role.LORA_TEXT_OUT, manifest.text),
            hashlib.sha256(b"".join(tensor.encode() for tensor in tensors)).hexdigest()[:16],
        )

    def image_session(
        self, folder: Path, weights: Weights, threads: int, providers: Sequence[str], *, keep_memory: bool
    ) -> Session:
        """The image encoder: pixels (B, 3, S, S) to features (B, D). `weights` are the image tower's."""
        return Session(
            folder / IMAGE_PROMPTED,
            stored_low=True,
            threads=threads,
            providers=providers,
            keep_memory=keep_memory,
            fixed={"prompts": self.visual},
            overrides=self.image.merged(weights) if self.image else {},
        )

    def text_session(self, folder: Path, weights: Weights, threads: int) -> Session:
        """The text encoder: prompts (C, T, W) and eot (C,) to features (C, D). `weights` are the text tower's."""
        return Session(
            folder / TEXT_PROMPTED,
            stored_low=True,
            threads=threads,
            fixed={"deep": self.deep},
            overrides=self.text.merged(weights) if self.text else {},
        )


def _visual(pack: Pack, vision: VisionConfig, text: TextConfig) -> Array:
    if (tensor := pack.tensor(Role.VISUAL_CTX)) is None:
        return np.zeros((0, 0, vision.width), np.float32)
    depth, n, width = _three(tensor.shape, "image", "(depth, n, width)")
    # attention grows with the square of n: as many as a text can hold are enough, a hostile pack could ask for 65535
    if depth > vision.layers or n > text.context_length or width != vision.width:
        wanted = f"at most ({vision.layers}, {text.context_length}) of width {vision.width}"
        raise PackError(f"the pack's tokens of image layers have shape {tensor.shape}, this backbone takes {wanted}: learn again")
    return tensor.values()


def _deep(pack: Pack, text: TextConfig) -> Array:
    if (tensor := pack.tensor(Role.DEEP_CTX)) is None:
        return np.zeros((0, 0, text.width), np.float32)
    layers, n, width = _three(tensor.shape, "text", "(depth - 1, n, width)")
    ctx = pack.tensor(Role.CTX)
    if ctx is None or ctx.shape != (n, width) or layers >= text.layers or width != text.width:
        first = None if ctx is None else ctx.shape
        raise PackError(
            f"the pack's tokens of text layers have shapes {first} and {tensor.shape}, this backbone takes (n, {text.width}) and "
            f"(up to {text.layers - 1}, n, {text.width}): learn again"
        )
    return tensor.values()


def _three(shape: tuple[int, ...], tower: str, wanted: str) -> tuple[int, ...]:
    if len(shape) != 3:
        raise PackError(f"the pack's tokens of {tower} layers have shape {shape}, wanted {wanted}: learn again")
    return shape


def _low_rank(pack: Pack, role_in: Role, role_out: Role, tower: TextConfig | VisionConfig) -> LowRank | None:
    inner, outer = pack.tensor(role_in), pack.tensor(role_out)
    if inner is None and outer is None:
        return None
    shapes = [tensor.shape if tensor else () for tensor in (inner, outer)]
    rank = shapes[1][-1] if shapes[1] else 0
    fitting = [(tower.layers, QKV, rank, tower.width), (tower.layers, QKV, tower.width, rank)]
    if inner is None or outer is None or shapes != fitting:
        wanted = f"({tower.layers}, {QKV}, r, {tower.width}) and ({tower.layers}, {QKV}, {tower.width}, r)"
        raise PackError(f"the pack's changes of weights have shapes {shapes[0]} and {shapes[1]}, wanted {wanted}: learn again")
    return LowRank(inner.values(), outer.values())
