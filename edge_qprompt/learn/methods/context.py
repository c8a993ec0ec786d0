"""Parts of methods: the learned tokens in front of every class name, and how they are stored.

Symbols: n learned tokens, W width of the text tower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_qprompt.codebook import Clustering
from edge_qprompt.learn.methods.straight_through import StraightThrough
from edge_qprompt.learn.settings import MethodSettings
from edge_qprompt.pack import PackTensor, Role

if TYPE_CHECKING:
    from torch import Tensor


class Context:
    """Learned tokens, stored as float16.

    Args:
        start: (n, W), where learning begins.
        settings: nothing of them.

    Attributes:
        values: (n, W), what the optimiser moves.
    """

    def __init__(self, start: Tensor, settings: MethodSettings) -> None:
        self.values = start.clone().requires_grad_()

    def __call__(self) -> Tensor:
        """(n, W), as the text tower sees them in a step."""
        return self.values

    def after_step(self, step: int) -> None:
        """Called after each step, from 1."""

    def tensor(self) -> PackTensor:
        """As they are stored."""
        return PackTensor.raw(Role.CTX, self.values.detach().numpy())

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps besides the values."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {}


class QuantizedContext(Context):
    """Learned through a quantizer, as they will be stored: indexes and a codebook.

    Args:
        start: as of `Context`.
        settings: `clusters`: bits, and when to cluster again.
    """

    def __init__(self, start: Tensor, settings: MethodSettings) -> None:
        super().__init__(start, settings)
        self._quantizer = StraightThrough(start, settings.clusters)

    def __call__(self) -> Tensor:
        """(n, W), quantized, with the gradient of the identity."""
        return self._quantizer(self.values)

    def after_step(self, step: int) -> None:
        """Look whether to cluster again."""
        self._quantizer.look(self.values, step)

    def tensor(self) -> PackTensor:
        """Indexes and codebook."""
        return PackTensor.quantized(Role.CTX, self._quantizer.quantize(self.values))

    def state(self) -> dict[str, Tensor]:
        """The quantizer's."""
        return self._quantizer.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """The quantizer's."""
        self._quantizer.load(state)

    def facts(self) -> dict[str, Any]:
        """The quantizer's."""
        return self._quantizer.facts()


class RoundedContext(Context):
    """Learned in float, and quantized when it is stored.

    Args:
        start: as of `Context`.
        settings: `clusters`: bits.
    """

    def __init__(self, start: Tensor, settings: MethodSettings) -> None:
        super().__init__(start, settings)
        self._clusters = settings.clusters

    def tensor(self) -> PackTensor:
        """Indexes and codebook of the values as they are now."""
        ctx = self.values.detach().numpy()
        return PackTensor.quantized(Role.CTX, Clustering.fit(ctx, self._clusters).quantize(ctx))
