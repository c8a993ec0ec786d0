"""QMaPLe: MaPLe through quantizers, one for each tensor that is stored.

Source: Hao et al., Quantized Prompt (arXiv 2407.10704), table 1. That paper quantizes the couplings with the tokens;
here the tokens that they make are quantized, since these are what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.learn.later import torch
from edge_qprompt.learn.method import Result
from edge_qprompt.learn.methods.maple import MaPLe, MaPLeOptions
from edge_qprompt.learn.methods.straight_through import StraightThrough
from edge_qprompt.learn.settings import MethodSettings
from edge_qprompt.pack import PackTensor, Role

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem


@dataclass(frozen=True)
class QMaPLeOptions(MaPLeOptions):
    """Of QMaPLe.

    Attributes:
        prompt_bits: b of what is stored, 1 to 8; when to cluster again is in the settings of all methods.
    """

    prompt_bits: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        ClusterSettings(bits=self.prompt_bits)  # which checks them


class QMaPLe(MaPLe):
    """Method `qmaple`."""

    name, number = "qmaple", 13
    Options = QMaPLeOptions
    options: QMaPLeOptions

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        clusters = replace(settings.clusters, bits=self.options.prompt_bits)
        self._quantizers = {role: StraightThrough(values, clusters) for role, values in self.tokens().items()}

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of views (B, 3, S, S) uint8 under the quantized tokens."""
        quantized = {role: self._quantizers[role](values) for role, values in self.tokens().items()}
        return self.cross_entropy(quantized, features, labels)

    def after_step(self, step: int, steps: int) -> None:
        """Look whether to cluster again."""
        with torch.no_grad():
            for role, values in self.tokens().items():
                self._quantizers[role].look(values, step)

    def result(self) -> Result:
        """Indexes and codebooks."""
        tokens = self.tokens().items()
        return tuple(PackTensor.quantized(role, self._quantizers[role].quantize(values)) for role, values in tokens), ()

    def state(self) -> dict[str, Tensor]:
        """The quantizers' centres and histograms."""
        return {f"{role}.{name}": value for role, each in self._quantizers.items() for name, value in each.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for role, quantizer in self._quantizers.items():
            start = f"{role}."
            quantizer.load({name.removeprefix(start): value for name, value in state.items() if name.startswith(start)})

    def facts(self) -> dict[str, Any]:
        """The size as the paper counts it, and how often each tensor was clustered again."""
        fired = {Role(role).name.lower(): each.clustering.fired for role, each in self._quantizers.items()}
        return {"paper_bytes": self.paper_bytes(self.options.prompt_bits), "reclusterings": fired}
