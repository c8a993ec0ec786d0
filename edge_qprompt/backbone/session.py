"""The seam to onnxruntime: one place for session settings, and for turning its errors into ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.errors import BackboneError

SUFFIX = "ExecutionProvider"  # of all names of onnxruntime's
CPU = (f"CPU{SUFFIX}",)


class Session:
    """An ONNX graph, ready to run.

    Args:
        path: the graph; external weights lie beside it.
        stored_low: the graph stores weights in fewer bits and computes in float32. onnxruntime
            must then fold DequantizeLinear at load instead of looking for integer kernels,
            which makes the embedded backbone three times faster.
        threads: 0 lets onnxruntime use every core.
        providers: onnxruntime's full names, the preferred one first; what they cannot run, the CPU runs.
        keep_memory: between runs, for who runs it all the time: the C library, as it likes, hands it back to the system
            and fetches it again each time, which takes up to a fifth of nano's time.
        fixed: inputs that are the same in every run.
        overrides: other values for initializers that lie beside the graph, in their shape and type.

    Raises:
        BackboneError: onnxruntime cannot load the graph, or cannot start a provider.
    """

    def __init__(
        self,
        path: Path,
        *,
        stored_low: bool,
        threads: int = 0,
        providers: Sequence[str] = CPU,
        keep_memory: bool = False,
        fixed: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
        overrides: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> None:
        import onnxruntime as ort  # half of the start-up time of a command that may not need it

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only; warnings here are about graph clean-ups
        options.enable_cpu_mem_arena = keep_memory
        # beside other work, threads that spin while they wait slow each other down: docs/adr/0007-image-encoder.md
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if stored_low:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._fixed = dict(fixed)
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in overrides.values()]
        try:
            if values:  # not add_initializer: that comes after folding, and what was folded keeps the graph's own values
                options.add_external_initializers(list(overrides), values)
            self._session = ort.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BackboneError(f"onnxruntime cannot load {path} ({error}): export the backbone again") from error
        # a provider whose libraries are missing is left out by onnxruntime, with a line on stderr
        if left_out := set(providers) - set(self._session.get_providers()):
            names = ", ".join(sorted(map(short_name, left_out)))
            raise BackboneError(f"onnxruntime cannot start {names}: install its driver and libraries, or choose --providers cpu")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The graph's only output."""
        (output,) = self._session.run(None, {**self._fixed, **feeds})
        return np.asarray(output, np.float32)


def runtime_version() -> str:
    """onnxruntime's version; loads it."""
    import onnxruntime as ort

    return str(ort.__version__)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def short_name(provider: str) -> str:
    """ "cuda" for CUDAExecutionProvider."""
    return provider.removesuffix(SUFFIX).lower()


def parse_providers(text: str) -> tuple[str, ...]:
    """onnxruntime's full names of providers, in the order given.

    Args:
        text: names with commas between them, short or full, in any case: "tensorrt,cuda".

    Raises:
        BackboneError: this onnxruntime has no such provider; lists those that it has.
    """
    given = list(dict.fromkeys(short_name(name) for name in _names(text)))
    if given == ["cpu"]:
        return CPU  # always there; asking would load onnxruntime before it is needed
    import onnxruntime as ort

    known = {short_name(provider): provider for provider in ort.get_available_providers()}
    if missing := [name for name in given if name not in known]:
        raise BackboneError(
            f"this onnxruntime has no provider {missing[0]!r}, it has {', '.join(sorted(known))}: choose one of these, "
            "or install the build of onnxruntime that brings yours (onnxruntime-gpu, onnxruntime-openvino ...)"
        )
    return tuple(known[name] for name in given)


def _names(text: str) -> list[str]:
    """The parts of a list with commas; SUFFIX is spelled as onnxruntime does, whatever the case."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise BackboneError(f"--providers {text!r} has an empty name: give names with commas between them, e.g. cuda,cpu")
    return [part[: -len(SUFFIX)] if part.lower().endswith(SUFFIX.lower()) else part for part in parts]
