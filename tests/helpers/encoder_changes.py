"""What the tests of packs that change the encoders share: a small exported vision transformer, and such packs for it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DEMO
from numpy.typing import NDArray

from edge_qprompt.backbone.backbone import Backbone
from edge_qprompt.learn import METHODS
from edge_qprompt.pack.pack import Pack, PackTensor, Precision, Role, Section, names_section
from edge_qprompt.pack.section import TEMPLATE
from edge_qprompt.photos.photo import decode_photo, to_pixels
from exporter.source.source import import_open_clip

NAMES = ["bag", "ankle boot", "sandal"]
LAYERS, WIDTH = 3, 64  # of VIT's image tower
TEXT_LAYERS, TEXT_WIDTH = 2, 64

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A small vision transformer and its backbone."""

    model: Any
    backbone: Backbone
    stored: str  # the type of the weights
    arguments: list[str]

    @property
    def tolerance(self) -> float:
        """Of a feature with merged weights, which are rounded to the stored type."""
        return 5e-6 if self.stored == "float32" else 5e-4


def draw(seed: int, *shape: int, scale: float = 0.5) -> Array:
    """Learned values, as a pack holds them: float16."""
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return values.astype(np.float16).astype(np.float32)


def pack_of(backbone: Backbone, tensors: dict[Role, Array], *, template: bool = False) -> Pack:
    sections = (*([Section(TEMPLATE.tag, b"a {}.")] if template else []), names_section(NAMES))
    raw = tuple(PackTensor.raw(role, values) for role, values in tensors.items())
    pack = Pack(backbone.manifest.short_fingerprint, METHODS["maple"].number, Precision.FP32, raw, sections)
    return Pack.decode(pack.encode())


def maple(depth: int, n: int, seed: int = 0) -> dict[Role, Array]:
    """What a MaPLe pack holds; a tower of two layers has at most one deeper row."""
    found = {Role.CTX: draw(seed, n, TEXT_WIDTH), Role.VISUAL_CTX: draw(seed + 1, depth, n, WIDTH)}
    if depth > 1:
        found[Role.DEEP_CTX] = draw(seed + 2, min(depth, TEXT_LAYERS) - 1, n, TEXT_WIDTH)
    return found


def lora(rank: int, seed: int = 0) -> dict[Role, Array]:
    return {
        Role.LORA_TEXT_IN: draw(seed, TEXT_LAYERS, 3, rank, TEXT_WIDTH, scale=0.2),
        Role.LORA_TEXT_OUT: draw(seed + 1, TEXT_LAYERS, 3, TEXT_WIDTH, rank, scale=0.2),
        Role.LORA_IMAGE_IN: draw(seed + 2, LAYERS, 3, rank, WIDTH, scale=0.2),
        Role.LORA_IMAGE_OUT: draw(seed + 3, LAYERS, 3, WIDTH, rank, scale=0.2),
    }


def photos() -> list[Path]:
    return sorted((DEMO / "test").glob("*/0.png"))


def pixels(backbone: Backbone) -> Array:
    return np.stack([to_pixels(decode_photo(path.read_bytes()), backbone.manifest.preprocess) for path in photos()])


# the reference: open_clip's modules, with the tokens put in by hooks, as MaPLe's code does it


@contextmanager
def hooked(model: Any, tensors: dict[Role, Array]) -> Iterator[None]:
    """The model with MaPLe's tokens in it; of text, the n tokens behind SOT are placeholders."""
    hooks = []
    if (visual := tensors.get(Role.VISUAL_CTX)) is not None:
        rows, n = torch.from_numpy(visual), visual.shape[1]

        def append(_: Any, given: Any) -> Any:
            return torch.cat([given[0], rows[0].expand(len(given[0]), -1, -1)], 1)

        hooks.append(model.visual.ln_pre.register_forward_pre_hook(append))
        for row, block in zip(rows[1:], model.visual.transformer.resblocks[1:], strict=False):

            def replace_last(_: Any, given: Any, row: torch.Tensor = row) -> Any:
                return (torch.cat([given[0][:, :-n], row.expand(len(given[0]), -1, -1)], 1), *given[1:])

            hooks.append(block.register_forward_pre_hook(replace_last))
    if (ctx := tensors.get(Role.CTX)) is not None:
        first = torch.from_numpy(ctx)

        def embed(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
            return torch.cat([embedded[:, :1], first.expand(len(embedded), -1, -1), embedded[:, 1 + len(first) :]], 1)

        hooks.append(model.token_embedding.register_forward_hook(embed))
    deep = map(torch.from_numpy, tensors.get(Role.DEEP_CTX, ()))
    for row, block in zip(deep, model.transformer.resblocks[1:], strict=False):

        def replace_first(_: Any, given: Any, row: torch.Tensor = row) -> Any:
            x = given[0]
            return (torch.cat([x[:, :1], row.expand(len(x), -1, -1), x[:, 1 + len(row) :]], 1), *given[1:])

        hooks.append(block.register_forward_pre_hook(replace_first))
    yield
    for hook in hooks:
        hook.remove()


def merged(model: Any, tensors: dict[Role, Array]) -> Any:
    """A copy of the model with the low-rank changes added to its weights."""
    changed = copy.deepcopy(model)
    for tower, inner, outer in (
        (changed.transformer, Role.LORA_TEXT_IN, Role.LORA_TEXT_OUT),
        (changed.visual.transformer, Role.LORA_IMAGE_IN, Role.LORA_IMAGE_OUT),
    ):
        for layer, block in enumerate(tower.resblocks):
            for i, part in enumerate(block.attn.in_proj_weight.data.chunk(3)):  # q, k, v
                part += torch.from_numpy(tensors[outer][layer, i]) @ torch.from_numpy(tensors[inner][layer, i])
    return changed


def reference_text(model: Any, prefix: str) -> Array:
    with torch.inference_mode():
        tokens = import_open_clip().tokenize([f"{prefix}{name}." for name in NAMES])
        return model.encode_text(tokens, normalize=True).numpy()


def reference_image(model: Any, batch: Array) -> Array:
    with torch.inference_mode():
        return model.encode_image(torch.from_numpy(batch), normalize=True).numpy()
