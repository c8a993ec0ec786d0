"""How many cores a training step should use.

torch's OpenMP threads wait for each other by spinning, hundreds of times a step. Where another
program wants a core too, each wait can cost a scheduler's time slice: a 10 ms step of the embedded
backbone was measured at 440 ms on two busy cores with two threads, and at 12 ms with one
(docs/adr/0005-threads.md). A small step gains little from a second thread, so it gets one. The
rule looks at nothing but the amount of work: the number of threads changes the last bits of a sum,
and the same command must give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_STEP = 3e9  # floating-point operations: about 30 ms on one core of 100 GFLOP/s


def threads_for(work: float) -> int:
    """Threads for a step of `work` floating-point operations."""
    return 1 if work < SMALL_STEP else torch.get_num_threads()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run a block with `count` torch threads, then restore the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
