"""The seam to onnxruntime: one place for session settings, and for turning its errors into ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.errors import BackboneError


class Session:
    """An ONNX graph on the CPU.

    Args:
        path: the graph; external weights lie beside it.
        stored_low: the graph stores weights in fewer bits and computes in float32. onnxruntime
            must then fold DequantizeLinear at load instead of looking for integer kernels,
            which makes the embedded backbone three times faster.
        threads: 0 lets onnxruntime use every core.

    Raises:
        BackboneError: onnxruntime cannot load the graph.
    """

    def __init__(self, path: Path, *, stored_low: bool, threads: int = 0) -> None:
        import onnxruntime as ort  # half of the start-up time of a command that may not need it

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only; warnings here are about graph clean-ups
        options.enable_cpu_mem_arena = False  # an edge device wants the memory back
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if stored_low:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BackboneError(f"onnxruntime cannot load {path} ({error}): export the backbone again") from error

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The graph's only output."""
        (output,) = self._session.run(None, dict(feeds))
        return np.asarray(output, np.float32)
