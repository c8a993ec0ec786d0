"""Makes `import torchvision` work beside a torch that was built for another device.

PyPI's torchvision is built for CUDA. Beside a CPU-only torch its binary does not load, the
operators nms and qnms stay undefined, and the import fails where torchvision gives them a fake
kernel. open_clip needs only the image transforms, so it is enough to define the two schemas.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # the schemas vanish with it


def define_missing_schemas() -> None:
    """Define the schemas if torchvision is installed and its own operators cannot be loaded."""
    global _library
    found = importlib.util.find_spec("torchvision")
    if _library is not None or found is None or found.origin is None:
        return
    for binary in Path(found.origin).parent.glob("_C*"):  # what torchvision itself would load
        try:
            torch.ops.load_library(binary)  # type: ignore[no-untyped-call]
        except OSError:
            continue
    if not hasattr(torch.ops.torchvision, "nms"):
        _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in SCHEMAS:
            _library.define(schema)  # type: ignore[no-untyped-call]
