"""A small net that a pack brings along: x -> OUT [relu(IN [x; 1]); 1], biases in the last columns. numpy only.

Symbols: B rows, I inputs, h inner width, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.errors import PackError
from edge_qprompt.pack import Pack, Role

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Net:
    """A net of two layers, x -> OUT [relu(IN [x; 1]); 1], biases in the last columns, in numpy.

    Attributes:
        inner: (h, I + 1) float32.
        outer: (O, h + 1) float32.
    """

    inner: Array
    outer: Array

    @classmethod
    def of(cls, pack: Pack, role_in: Role, role_out: Role, inputs: int, outputs: int) -> Net | None:
        """The net of two tensors of a pack, or None where it has neither.

        Raises:
            PackError: one of them is missing, or does not fit.
        """
        tensors = pack.tensor(role_in), pack.tensor(role_out)
        if tensors == (None, None):
            return None
        shapes = [tensor.shape if tensor else None for tensor in tensors]
        hidden = shapes[0][0] if shapes[0] else 0
        wanted = [(hidden, inputs + 1), (outputs, hidden + 1)]
        if tensors[0] is None or tensors[1] is None or shapes != wanted:
            raise PackError(
                f"the pack's {role_in.name} and {role_out.name} have shapes {shapes[0]} and {shapes[1]}, "
                f"wanted (h, {inputs + 1}) and ({outputs}, h + 1): learn it again"
            )
        return cls(tensors[0].values(), tensors[1].values())

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.inner.nbytes + self.outer.nbytes

    def __call__(self, x: Array) -> Array:
        """(B, I) float32 -> (B, O) float32."""
        hidden = np.maximum(x @ self.inner[:, :-1].T + self.inner[:, -1], 0)  # (B, h)
        return np.asarray(hidden @ self.outer[:, :-1].T + self.outer[:, -1], np.float32)
