"""How many cores a training step should use.

Libraries' own threads wait for each other by spinning, hundreds of times a step. Where another program
wants a core too, each wait can cost a scheduler's time slice: a 10 ms step of the embedded backbone was
measured at 440 ms on two busy cores with two of torch's threads, and at 12 ms with one
(docs/adr/0005-threads.md). So a step has threads of its own, which sleep (`step.ParallelTower`), torch has
one in each, and only steps that are worth it have a second one. The rule looks at nothing but the amount
of work: the number of threads changes the last bits of a sum, and the same command must give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


SMALL_STEP = 1e9  # floating-point operations: about 15 ms on one core of 70 GFLOP/s


def threads_for(work: float) -> int:
    """Threads for a step of `work` floating-point operations; torch.set_num_threads sets the limit."""
    import torch

    return 1 if work < SMALL_STEP else torch.get_num_threads()


def one_core() -> None:
    """For a process among several: its steps use one thread."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run a block with `count` torch threads, then restore the number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run a block in which numpy's BLAS starts no threads of its own: sums then have the same bits on any number of cores."""
    with _blas().limit(limits=1):
        yield


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Run a block in which neither torch nor numpy's BLAS starts threads of its own."""
    with torch_threads(1), one_blas_thread():
        yield


@cache
def _blas() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
