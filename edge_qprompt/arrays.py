"""What several rooms do with arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def normalised(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of unit length, float32."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
