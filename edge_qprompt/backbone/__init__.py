"""A backbone: one frozen CLIP-type model in a folder, and what runs it.

`Backbone.open` is the way in: `Manifest` says what the folder holds, `Session` runs an encoder in onnxruntime, `Tokenizer` and
`TextEncoder` turn class names into class features. No torch. May import `pack`, `arrays`, `prompts`, `errors` and `files`.
"""

from edge_qprompt.backbone.backbone import DEFAULT_PRECISION, Backbone, find_backbone, list_backbones
from edge_qprompt.backbone.changes import ROLES
from edge_qprompt.backbone.fair_lock import FairLock
from edge_qprompt.backbone.fixed_point import Product, Quantization, Range, quantization_json, quantized_weight
from edge_qprompt.backbone.manifest import (
    IMAGE_PROMPTED,
    IMAGE_WEIGHTS,
    MANIFEST,
    MANIFEST_FORMAT,
    TEXT_ONNX,
    TEXT_PROMPTED,
    TEXT_WEIGHTS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    FileRecord,
    Manifest,
    PrecisionRecord,
    Preprocess,
    TextConfig,
    VisionConfig,
    image_onnx,
    text_onnx,
)
from edge_qprompt.backbone.precision import AUTO, FP32, MIN_AGREEMENT, common, mismatch
from edge_qprompt.backbone.session import Session, cores, runtime_version
from edge_qprompt.backbone.speed import median_seconds
from edge_qprompt.backbone.text import TextEncoder, name_tokens
from edge_qprompt.backbone.tokenizer import Tokenizer
from edge_qprompt.backbone.weights import SCALE, Weights

__all__ = [
    "AUTO",
    "Backbone",
    "DEFAULT_PRECISION",
    "FP32",
    "FairLock",
    "FileRecord",
    "IMAGE_PROMPTED",
    "IMAGE_WEIGHTS",
    "MANIFEST",
    "MANIFEST_FORMAT",
    "MIN_AGREEMENT",
    "Manifest",
    "PrecisionRecord",
    "Preprocess",
    "Product",
    "Quantization",
    "ROLES",
    "Range",
    "SCALE",
    "Session",
    "TEXT_ONNX",
    "TEXT_PROMPTED",
    "TEXT_WEIGHTS",
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "TextConfig",
    "TextEncoder",
    "Tokenizer",
    "VisionConfig",
    "Weights",
    "common",
    "cores",
    "find_backbone",
    "image_onnx",
    "list_backbones",
    "median_seconds",
    "mismatch",
    "name_tokens",
    "quantization_json",
    "quantized_weight",
    "runtime_version",
    "text_onnx",
]
