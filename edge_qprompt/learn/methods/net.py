"""A small net with a gradient: x -> OUT [relu(IN [x; 1]); 1], biases in the last columns, as `edge_qprompt.classify.net` runs it.

Symbols: B rows, I inputs, h inner width, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_qprompt.learn.later import F, torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LearnedNet:
    """A net of two layers with a gradient, x -> OUT [relu(IN [x; 1]); 1], biases in the last columns.

    Attributes:
        inner: (h, I + 1).
        outer: (O, h + 1).
    """

    inner: Tensor
    outer: Tensor

    @classmethod
    def start(cls, inputs: int, hidden: int, outputs: int, seed: int) -> LearnedNet:
        """Random weights as torch.nn.Linear has them: uniform within one over the root of the number of inputs."""
        draws = torch.Generator().manual_seed(seed)

        def uniform(rows: int, columns: int) -> Tensor:
            values: Tensor = (2 * torch.rand(rows, columns + 1, generator=draws) - 1) / columns**0.5
            return values.requires_grad_()

        return cls(uniform(hidden, inputs), uniform(outputs, hidden))

    def __call__(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        hidden = F.relu(F.linear(x, self.inner[:, :-1], self.inner[:, -1]))  # (B, h)
        return F.linear(hidden, self.outer[:, :-1], self.outer[:, -1])
