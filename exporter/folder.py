"""Assembles a backbone folder: weights, graphs, tokenizer, digests, manifest; all or nothing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edge_qprompt.backbone import (
    IMAGE_WEIGHTS,
    MANIFEST,
    MANIFEST_FORMAT,
    TEXT_WEIGHTS,
    FileRecord,
    Manifest,
    PrecisionRecord,
    Preprocess,
    TextConfig,
    VisionConfig,
)
from edge_qprompt.errors import ExportError
from edge_qprompt.files import sha256_of, sync_folder
from exporter.graphs import write_text_graph, write_vision_graph

INT8_LEVELS = 127
TOOLS = ("torch", "onnx", "onnxruntime", "open_clip_torch", "timm", "numpy", "edge-qprompt")

Tensors = Mapping[str, NDArray[Any]]


@contextmanager
def new_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends without an error.

    Raises:
        ExportError: `target` exists and `replace` is not set, or is not a backbone folder.
    """
    if target.exists():
        if not replace:
            raise ExportError(f"{target} exists: give another --out, or --replace")
        if any(target.iterdir()) and not (target / MANIFEST).is_file():
            raise ExportError(f"{target} is not a backbone folder, it will not be replaced: give another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.parent / f".{target.name}.old"
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        yield work
        work.chmod(0o755)
        for path in work.iterdir():
            path.chmod(0o644)  # safetensors makes private files
        if target.exists():
            target.rename(old)  # two renames: whatever happens, one whole folder is left
        work.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def folder_copy(source: Path, manifest: Manifest, target: Path, *, replace: bool) -> Iterator[Path]:
    """A `new_folder` that starts with the files of a backbone, but for its manifest.

    Args:
        source: folder of the backbone.
        manifest: its own.
        target, replace: as of `new_folder`.
    """
    with new_folder(target, replace=replace) as work:
        for file in manifest.files:
            shutil.copyfile(source / file, work / file)
        yield work


def write_text(folder: Path, tensors: Tensors, config: TextConfig, embed_dim: int, int8: tuple[str, ...] = ()) -> None:
    """Write text.safetensors and text.onnx.

    Args:
        folder: where.
        tensors: open_clip's names; kept as float16 where that loses nothing, else float32.
        config: of the tower.
        embed_dim: D.
        int8: names of matrices to store as int8 rows with a scale each.
    """
    stored: dict[str, NDArray[Any]] = {}
    for name, values in tensors.items():
        if name in int8:
            stored[name], stored[name + ".scale"] = int8_rows(values)
        else:
            stored[name] = lossless_half(values)
    save_file(stored, folder / TEXT_WEIGHTS)
    write_text_graph(folder, config, embed_dim)


def write_prompted(folder: Path, tensors: Tensors, vision: VisionConfig, text: TextConfig, size: int, embed_dim: int) -> None:
    """Write image.safetensors, image.prompted.onnx and text.prompted.onnx beside an existing text.safetensors.

    Args:
        folder: where.
        tensors: of the image tower, open_clip's names; kept as `write_text` keeps them.
        vision, text: the towers.
        size: S.
        embed_dim: D.
    """
    save_file({name: lossless_half(values) for name, values in tensors.items()}, folder / IMAGE_WEIGHTS)
    write_vision_graph(folder, vision, size, embed_dim)
    write_text_graph(folder, text, embed_dim, deep=True)


def lossless_half(values: NDArray[Any]) -> NDArray[Any]:
    """float16 if every value survives the round trip, else float32."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    same = np.array_equal(half.astype(np.float32), values.astype(np.float32))
    return half if same else values.astype(np.float32)


def int8_rows(values: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Symmetric int8 a row: (R, ...) values to codes of the same shape and scales (R,) float16."""
    flat = values.reshape(len(values), -1).astype(np.float32)
    top = np.abs(flat).max(axis=1) / INT8_LEVELS
    scale = np.maximum(top, np.finfo(np.float16).tiny).astype(np.float16)
    codes = np.clip(np.round(flat / scale[:, None].astype(np.float32)), -INT8_LEVELS, INT8_LEVELS).astype(np.int8)
    return codes.reshape(values.shape), scale


def fingerprint(tensors: Tensors, tokenizer: bytes, preprocess: Preprocess, text: TextConfig, scale: float) -> str:
    """Hex SHA-256 over the source weights and everything else that changes a feature or a logit."""
    settings = {"preprocess": asdict(preprocess), "text": asdict(text), "logit_scale": scale}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(hashlib.sha256(tokenizer).digest())
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.data if values.size else b"")
    return digest.hexdigest()


def write_manifest(
    folder: Path,
    *,
    name: str,
    source: str,
    licence: str,
    fingerprint: str,
    embed_dim: int,
    logit_scale: float,
    preprocess: Preprocess,
    text: TextConfig,
    precisions: dict[str, PrecisionRecord],
    vision: VisionConfig | None = None,
) -> Manifest:
    """Digest what is in the folder and write manifest.json beside it."""
    files = {
        path.name: FileRecord(path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir()) if path.name != MANIFEST
    }
    manifest = Manifest(
        MANIFEST_FORMAT,
        name,
        source,
        licence,
        fingerprint,
        embed_dim,
        logit_scale,
        preprocess,
        text,
        files,
        precisions,
        versions(),
        vision,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def versions() -> dict[str, str]:
    """Versions of the installed tools that shape a folder."""
    found = {}
    for tool in TOOLS:
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
