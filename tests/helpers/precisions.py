"""Backbones of several precisions for the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edge_qprompt import Backbone


def nano_in(folder: Path, *precisions: str, agreement: Mapping[str, float] | None = None) -> Path:
    """A new folder with nano, whose fp32 encoder also goes by the names of other precisions.

    Args:
        folder: to make.
        precisions: the other names.
        agreement: what the manifest says of some, instead of fp32's.
    """
    nano = Backbone.open("nano").folder
    folder.mkdir()
    for path in nano.iterdir():
        (folder / path.name).symlink_to(path)
    manifest = json.loads((nano / "manifest.json").read_text())
    for name in precisions:
        (folder / f"image.{name}.onnx").symlink_to(nano / "image.fp32.onnx")
        manifest["files"][f"image.{name}.onnx"] = manifest["files"]["image.fp32.onnx"]
        record = manifest["precisions"]["fp32"]
        manifest["precisions"][name] = record | {"top1_agreement": (agreement or {}).get(name, record["top1_agreement"])}
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
