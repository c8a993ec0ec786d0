"""The manifest of a backbone folder: what the encoders are, and how to check the files.

A backbone folder is made by the exporter and read by everyone else; this file is the contract
between them. Symbols: S pixels a side, W and U widths of text and image tower, D dimensions of a feature.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_qprompt.errors import BackboneError

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
TEXT_ONNX = "text.onnx"
TEXT_WEIGHTS = "text.safetensors"
IMAGE_WEIGHTS = "image.safetensors"  # this and the next two only where the manifest has `vision`
IMAGE_PROMPTED = "image.prompted.onnx"
TEXT_PROMPTED = "text.prompted.onnx"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
ACTIVATIONS = ("gelu", "quick_gelu")


def image_onnx(precision: str) -> str:
    """File name of the image encoder in a precision."""
    return f"image.{precision}.onnx"


def text_onnx(precision: str) -> str:
    """File name of a text encoder that is quantized; see `Manifest.text_encoder`."""
    return f"text.{precision}.onnx"


@dataclass(frozen=True)
class Preprocess:
    """From a photo to pixels, as open_clip does it.

    Attributes:
        size: S, the encoder's input in pixels.
        resize: pixels of the shorter side before the centre crop.
        resize_mode: shortest (then centre crop), squash, or longest (then pad with fill).
        interpolation: bicubic or bilinear, Pillow's antialiased ones.
        mean, std: a channel, for values in 0 to 1.
        fill: grey level of the padding, 0 to 255.
    """

    size: int
    resize: int
    resize_mode: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fill: int = 0

    def __post_init__(self) -> None:
        if self.resize_mode not in ("shortest", "squash", "longest") or self.interpolation not in ("bicubic", "bilinear"):
            raise BackboneError(f"unknown preprocessing {self.resize_mode} / {self.interpolation}: upgrade edge-qprompt")
        if not 0 < self.size <= 4096 or not self.size <= self.resize <= 4096 or len(self.mean) != 3 or len(self.std) != 3:
            raise BackboneError(f"preprocessing out of range: {self}")


@dataclass(frozen=True)
class TextConfig:
    """The text tower: CLIP's causal transformer, pooled at EOT.

    Attributes:
        context_length: tokens, SOT and EOT included.
        vocab_size: rows of the token table.
        width: W.
        activation: gelu or quick_gelu.
        layer_norm_eps: added to the variance.
        sot, eot: token ids.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    activation: str
    layer_norm_eps: float
    sot: int
    eot: int

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise BackboneError(f"unknown activation {self.activation}: upgrade edge-qprompt")
        if min(self.context_length, self.vocab_size, self.width, self.layers, self.heads) < 1 or self.width % self.heads:
            raise BackboneError(f"text tower out of range: {self}")


@dataclass(frozen=True)
class VisionConfig:
    """The image tower, where it is CLIP's vision transformer: LayerNorm before and after it, a learned token pooled.

    Attributes:
        width: U.
        patch: pixels a side of a patch.
        activation: gelu or quick_gelu.
        layer_norm_eps: added to the variance.
    """

    width: int
    layers: int
    heads: int
    patch: int
    activation: str
    layer_norm_eps: float

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise BackboneError(f"unknown activation {self.activation}: upgrade edge-qprompt")
        if min(self.width, self.layers, self.heads, self.patch) < 1 or self.width % self.heads:
            raise BackboneError(f"image tower out of range: {self}")


@dataclass(frozen=True)
class FileRecord:
    """Size and digest of one file of the folder."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class PrecisionRecord:
    """How close an exported image encoder is to its source, measured at export.

    Attributes:
        cosine: the smallest cosine between a photo's feature and the reference's.
        top1_agreement: share of photos with the reference's label.
        photos: number of photos measured.
    """

    cosine: float
    top1_agreement: float
    photos: int


@dataclass(frozen=True)
class Manifest:
    """What a backbone is: its towers, how photos are prepared, its files with their digests, its precisions.

    Attributes:
        fingerprint: hex SHA-256 over the source weights and all that changes a feature.
        embed_dim: D.
        logit_scale: factor on the cosine similarities, already exponentiated.
        files: by name, all files but the manifest.
        precisions: by name ("fp32", "int8", "w4a8", "w4a4"), those whose encoder is in the folder.
        tools: versions of what made the folder.
        vision: the image tower, if it is one that prompts and other weights can be put into; None for all others.
    """

    format: int
    name: str
    source: str
    licence: str
    fingerprint: str
    embed_dim: int
    logit_scale: float
    preprocess: Preprocess
    text: TextConfig
    files: dict[str, FileRecord]
    precisions: dict[str, PrecisionRecord]
    tools: dict[str, str]
    vision: VisionConfig | None = None

    def __post_init__(self) -> None:
        if self.format != MANIFEST_FORMAT:
            raise BackboneError(
                f"backbone format {self.format}, this program reads {MANIFEST_FORMAT}: export it again or upgrade"
            )
        if len(self.fingerprint) != 64 or set(self.fingerprint) - set("0123456789abcdef"):
            raise BackboneError(f"the fingerprint {self.fingerprint!r} is not a hex SHA-256")
        if bad := [name for name in self.files if Path(name).name != name or name.startswith(".")]:
            raise BackboneError(f"file names of the manifest leave the folder: {bad}")

    def encoder_kind(self, precision: str) -> tuple[str, ...]:
        """A precision by name and, but for fp32, by its files: one fingerprint may have been quantized many times."""
        names = (image_onnx(precision), text_onnx(precision))
        digests = [self.files[name].sha256[:8] for name in names if name in self.files and precision != "fp32"]
        return (precision, *digests)

    @property
    def short_fingerprint(self) -> bytes:
        """The 8 bytes that a pack carries."""
        return bytes.fromhex(self.fingerprint[:16])

    def text_encoder(self, precision: str) -> str:
        """File name of the text encoder that goes with a precision: its own, or the float one."""
        own = text_onnx(precision)
        return own if own in self.files else TEXT_ONNX

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check `folder/manifest.json`.

        Raises:
            BackboneError: no manifest there, or one that cannot be used.
        """
        path = folder / MANIFEST
        try:
            with path.open("rb") as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise BackboneError(f"{folder} is not a backbone folder: {path.name}: {error.strerror}") from error
        try:
            if len(data) > MAX_MANIFEST_BYTES:
                raise ValueError(f"larger than {MAX_MANIFEST_BYTES} bytes")
            return typing.cast(Manifest, build(cls, json.loads(data)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BackboneError(f"{path} is damaged ({error}): export the backbone again") from error

    def to_json(self) -> str:
        """What `read` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def build(kind: Any, value: Any) -> Any:
    """A dataclass, dict, tuple or scalar of type `kind` from plain JSON; TypeError where it does not fit."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"wanted an object, got {type(value).__name__}")
        hints = typing.get_type_hints(kind)
        known = {name: build(hints[name], item) for name, item in value.items() if name in hints}
        return typing.cast(Any, kind)(**known)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # X | None
        return None if value is None else build(parts[0], value)
    if origin is dict and isinstance(value, dict):
        return {str(key): build(parts[1], item) for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(build(parts[0], item) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is not None or not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"wanted {getattr(kind, '__name__', kind)}, got {value!r}")
    return value
