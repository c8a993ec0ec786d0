"""An interrupted run on disk: one safetensors file, written whole, bound to its run by a digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from edge_qprompt.errors import CheckpointError
from edge_qprompt.files import write_whole

MAX_CHECKPOINT_BYTES = 256 << 20


@dataclass(frozen=True)
class Checkpoint:
    """All that the loop needs to go on after an epoch.

    Attributes:
        parameters: by the method's names.
        optimiser: what it keeps of each parameter, as "what/name".
        method: the method's own state.
        steps: optimiser steps so far.
        losses: mean loss of each finished epoch.
    """

    parameters: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    method: dict[str, Tensor]
    steps: int
    losses: list[float]


@dataclass(frozen=True)
class CheckpointFile:
    """Where one run keeps its checkpoint.

    Attributes:
        path: the file.
        digest: of everything that decides the result; a checkpoint of another digest is refused.
        resume: whether `read` looks at what is there.
    """

    path: Path
    digest: str
    resume: bool

    def read(self) -> Checkpoint | None:
        """The checkpoint, or None where there is none or none is wanted.

        Raises:
            CheckpointError: it is damaged, or belongs to a run with other settings or photos.
        """
        if not self.resume or not self.path.exists():
            return None
        advice = f"run without --resume to start over, or delete {self.path}"
        try:
            if self.path.stat().st_size > MAX_CHECKPOINT_BYTES:
                raise ValueError("it is too large")
            tensors = load(self.path.read_bytes())
            facts = json.loads(bytes(tensors.pop("facts").numpy()))
            parts: dict[str, dict[str, Tensor]] = {"parameters": {}, "optimiser": {}, "method": {}}
            for key, tensor in tensors.items():
                part, name = key.split("/", 1)
                parts[part][name] = tensor
            checkpoint = Checkpoint(**parts, steps=facts["steps"], losses=facts["losses"])
            same_run = facts["digest"] == self.digest
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint {self.path} is damaged ({error}): {advice}") from error
        if not same_run:
            raise CheckpointError(f"{self.path} belongs to a run with other settings, photos or backbone: {advice}")
        return checkpoint

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the file.

        Raises:
            OSError: as `files.write_whole`.
        """
        parts = {"parameters": checkpoint.parameters, "optimiser": checkpoint.optimiser, "method": checkpoint.method}
        tensors = {f"{part}/{name}": tensor.detach() for part, named in parts.items() for name, tensor in named.items()}
        facts = {"digest": self.digest, "steps": checkpoint.steps, "losses": checkpoint.losses}
        tensors["facts"] = _as_tensor(json.dumps(facts).encode())
        write_whole(self.path, save(tensors))


def _as_tensor(data: bytes) -> Tensor:
    """Bytes as a tensor: json floats survive exactly, and the file stays one."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
