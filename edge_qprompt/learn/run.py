"""What a loop did. No torch: who learned nothing step by step says so too."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Run:
    """What the loop did.

    Attributes:
        steps: optimiser steps, those before a resume included.
        losses: mean loss of each epoch.
        resumed_at: epoch at which a checkpoint was taken up, or None.
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    resumed_at: int | None = None
