"""Threads that work in step: each has its share of every layer, and they meet where results are summed.

Unlike OpenMP's, a thread that waits here sleeps, so a busy neighbour costs its share of the time and
no more (docs/adr/0006-step.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from edge_qprompt.learn.step.threads import one_thread_each

T = TypeVar("T")


class Team:
    """`size` threads, the calling one among them. While they work, no library starts threads of its own."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._others = ThreadPoolExecutor(size - 1, "step") if size > 1 else None
        self._start()

    def run(self, job: Callable[[int], T]) -> T:
        """job(rank) on every thread at once; returns what rank 0 returned.

        Raises:
            Whatever a thread raised; the others stop at their next meeting.
        """
        with one_thread_each():
            others: list[Future[Any]] = []
            if self._others:
                others = [self._others.submit(self._guarded, job, rank) for rank in range(1, self.size)]
            try:
                return self._guarded(job, 0)
            finally:
                failures = [error for other in others if (error := other.exception())]
                if self._broken:
                    self._start()
                for error in failures:
                    if not isinstance(error, threading.BrokenBarrierError):
                        raise error

    def meet(self, rank: int) -> None:
        """Wait until all threads are here.

        `threading.Barrier` does this too, in some ten times as many of Python's instructions, which all
        threads have to wait for.
        """
        if self.size == 1:
            return
        with self._lock:
            self._here += 1
            last = self._here % self.size == 0
        if last:
            self._open()
        self._gates[rank].get()
        if self._broken:
            raise threading.BrokenBarrierError

    def _open(self) -> None:
        for gate in self._gates:
            gate.put(None)

    def _start(self) -> None:
        self._lock, self._here, self._broken = threading.Lock(), 0, False
        self._gates = [SimpleQueue[None]() for _ in range(self.size)]

    def _guarded(self, job: Callable[[int], T], rank: int) -> T:
        try:
            return job(rank)
        except BaseException:
            self._broken = True
            self._open()  # whoever waits goes on, and finds it broken
            raise
