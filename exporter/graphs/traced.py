"""image.fp32.onnx: the image tower, traced by torch.export, with unit features and a dynamic batch.

The exporter on top of torch.export (`dynamo`) is used, not the older TorchScript one: it keeps
LayerNormalization, Gelu and attention as few clean nodes, which the int8 quantizer needs to find,
and the older one is deprecated. Symbols: B photos, S pixels a side, D dimensions of a feature.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from edge_qprompt.backbone import image_onnx
from edge_qprompt.errors import ExportError
from exporter.graphs.graph import OPSET

MAX_GRAPH_BYTES = 1_900_000_000  # protobuf ends at 2 GiB, and the graph needs some of it
TRACED_BATCH = 2  # torch.export would bake in a batch of 0 or 1


class UnitFeatures(torch.nn.Module):
    """An image tower whose features have length 1."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) to (B, D)."""
        features: torch.Tensor = self.tower(pixels)
        return torch.div(features, features.norm(dim=-1, keepdim=True))


def write_image_graph(folder: Path, tower: torch.nn.Module, size: int, embed_dim: int) -> None:
    """Write `folder/image.fp32.onnx`: pixels (B, 3, S, S) float32 to features (B, D), unit length.

    Args:
        folder: where; only this one file is written.
        tower: (B, 3, S, S) to (B, D), in eval mode.
        size: S.
        embed_dim: D.

    Raises:
        ExportError: the tower is too large for one file, has another output, or cannot be traced.
    """
    stored = sum(t.numel() * t.element_size() for t in tower.state_dict().values())
    if stored > MAX_GRAPH_BYTES:
        raise ExportError(
            f"the image tower has {stored / 1e9:.1f} GB of weights, one ONNX file holds {MAX_GRAPH_BYTES / 1e9:.1f}: "
            "export a smaller model"
        )
    example = torch.zeros(TRACED_BATCH, 3, size, size)
    _check_output(tower, example, embed_dim)
    path = folder / image_onnx("fp32")
    try:
        with _quiet():
            torch.onnx.export(
                UnitFeatures(tower).eval(),
                (example,),
                path,
                input_names=["pixels"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("B", min=1)},),
                opset_version=OPSET,
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch.export, onnxscript and the tower itself raise what they like
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"torch cannot export the image tower ({reason}): try another torch, or another model") from error
    onnx.save(without_notes(onnx.load(path)), path)
    onnx.checker.check_model(str(path))


def without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without torch's notes, which hold paths of this machine and stack traces."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
    return model


def _check_output(tower: torch.nn.Module, example: torch.Tensor, embed_dim: int) -> None:
    with torch.inference_mode():
        features = tower(example)
    got = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    if got != (TRACED_BATCH, embed_dim):
        raise ExportError(f"the image tower makes {got} of {TRACED_BATCH} photos, wanted {(TRACED_BATCH, embed_dim)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No gradients, none of torch's chatter, and no fused attention.

    In eval mode without gradients nn.MultiheadAttention takes a fused path, one operator that
    ONNX does not have.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        torch.backends.mha.set_fastpath_enabled(fused)
