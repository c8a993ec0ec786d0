"""What to export, as the user says it. Light: the command checks it before torch is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_qprompt.errors import ExportError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
LICENCE_UNKNOWN = "not stated: see where the weights come from"


@dataclass(frozen=True)
class Request:
    """Which model, and where its weights are.

    Attributes:
        model: a name of open_clip's, or any name if `model_config` is given.
        pretrained: a tag of open_clip's; downloaded if need be. With `checkpoint`: the file holds
            this tag's weights, which says how they were trained.
        checkpoint: weights in a file.
        model_config: JSON as in open_clip's model_configs, or an open_clip_config.json.
        name: of the backbone; made from the above if None.
        licence: of the weights, for the manifest.
    """

    model: str
    pretrained: str | None = None
    checkpoint: Path | None = None
    model_config: Path | None = None
    name: str | None = None
    licence: str = LICENCE_UNKNOWN

    def __post_init__(self) -> None:
        if self.pretrained is None and self.checkpoint is None:
            raise ExportError(f"no weights for {self.model}: give one of open_clip's tags after it, or --checkpoint FILE")
        if self.model_config is not None and (self.checkpoint is None or self.pretrained is not None):
            raise ExportError("--model-config describes a model of your own: give its weights with --checkpoint, and no tag")
        if self.checkpoint is not None and self.checkpoint.suffix.lower() not in SUFFIXES:
            raise ExportError(f"{self.checkpoint} is not a file of weights: give one of {', '.join(SUFFIXES)}")
        if not NAME.fullmatch(self.backbone_name):
            raise ExportError(f"the name {self.backbone_name!r} cannot be a folder's: use letters, digits, '.', '_' and '-'")

    @property
    def backbone_name(self) -> str:
        """The name of the backbone."""
        if self.name is not None:
            return self.name
        weights = self.pretrained or (self.checkpoint.stem if self.checkpoint else "")
        both = weights if weights.startswith(self.model) else f"{self.model}-{weights}"
        return re.sub(r"[^A-Za-z0-9._-]+", "-", both).strip("-.")[:100]
