"""Processes that work in step: each has its share of every layer, and they meet where results are summed.

Processes, since Python's interpreter lock makes a thread wait after every short operation: a step of ten classes took
as long with two threads as with one (docs/adr/0006-step.md). They are forked, so weights are shared and nothing is sent;
what they exchange lies in shared memory. Unlike OpenMP's threads, one that waits sleeps, so a busy neighbour costs
its share of the time and no more.
"""

from __future__ import annotations

import gc
import math
import mmap
import os
import select
import signal
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.learn.threads import one_thread_each

T = TypeVar("T")
MESSAGE_BYTES = 2000


def shared(*shape: int) -> NDArray[np.float32]:
    """A float32 array of zeros that processes forked later see, and write, too."""
    return np.frombuffer(mmap.mmap(-1, max(4 * math.prod(shape), 1)), np.float32, math.prod(shape)).reshape(shape)


class Team(Generic[T]):
    """`size` processes, the calling one among them, which is rank 0. The others are forked at the first run.

    While they work, no library starts threads of its own. Only Linux has what this needs; elsewhere the size is 1.

    Args:
        size: how many.
        work: work(rank, order), called in each process; what differs between them must be in shared memory.
    """

    def __init__(self, size: int, work: Callable[[int, int], T]) -> None:
        self.size = size if sys.platform == "linux" else 1
        self._work = work
        self._order = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._lines: _Lines | None = None

    def run(self, order: int) -> T:
        """work(rank, order) in every process at once; returns what rank 0 returned.

        Raises:
            Whatever rank 0 raised.
            EdgeQPromptError: another one failed. In both cases the others are ended, and forked again for the next run.
        """
        with one_thread_each():
            if self.size == 1:
                return self._work(0, order)
            try:
                if self._lines is None:
                    self._lines = self._fork()
                self._order[0] = order
                self.meet(0)
                result = self._work(0, order)
                self.meet(0)
                return result
            except BaseException:
                self.end()
                raise

    def meet(self, rank: int) -> None:
        """Wait until all processes are here."""
        if self._lines is not None:
            self._lines.meet(rank)

    def end(self) -> None:
        """End the other processes; the next run forks new ones."""
        if self._lines is not None:
            self._lines.end()
            self._lines = None

    def _fork(self) -> _Lines:
        lines = self._lines = _Lines(self.size)
        for rank in range(1, self.size):
            with warnings.catch_warnings():
                # Python 3.12 warns of locks that other threads may hold: the child computes, and takes none of theirs
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if not child:
                self._serve(rank, lines)
            lines.children.append(child)
        lines.keep(0)
        return lines

    def _serve(self, rank: int, lines: _Lines) -> None:
        """A child's life."""
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
            gc.freeze()
            lines.keep(rank)
            with one_thread_each():
                while True:
                    self.meet(rank)
                    self._work(rank, int(self._order[0]))
                    self.meet(rank)
        except _GoneError:
            os._exit(0)
        except BaseException as error:
            lines.say(rank, f"{type(error).__name__}: {error}")
        os._exit(1)


class _GoneError(Exception):
    """Another process has ended."""


class _Lines:
    """What processes wait on: for each pair an eventfd a direction, for each process a pipe that closes when it ends."""

    def __init__(self, size: int) -> None:
        ranks = range(size)
        self.children: list[int] = []
        self._gates = [[os.eventfd(0) for _ in ranks] for _ in ranks]  # [from][to]
        self._lives = [os.pipe() for _ in ranks]
        self._polls = [[_poll(self._gates[other][rank], self._lives[other][0]) for other in ranks] for rank in ranks]
        files = [fd for row in self._gates for fd in row] + [reading for reading, _ in self._lives]
        self.end = weakref.finalize(self, _end, self.children, files, self._lives[0][1])

    def keep(self, rank: int) -> None:
        """Close what belongs to other processes."""
        for other, (_, writing) in enumerate(self._lives):
            if other != rank:
                os.close(writing)

    def meet(self, rank: int) -> None:
        """See `Team`."""
        others = [other for other in range(len(self._gates)) if other != rank]
        for other in others:
            os.eventfd_write(self._gates[rank][other], 1)
        for other in others:
            gate = self._gates[other][rank]
            if gate not in (fd for fd, _ in self._polls[rank][other].poll()):
                self._gone(rank)
            os.eventfd_read(gate)

    def say(self, rank: int, text: str) -> None:
        """Last words."""
        os.write(self._lives[rank][1], text.encode(errors="replace")[:MESSAGE_BYTES])

    def _gone(self, rank: int) -> None:
        if rank != 0:
            raise _GoneError
        ended, _, _ = select.select([reading for reading, _ in self._lives[1:]], [], [], 0)
        words = (os.read(reading, MESSAGE_BYTES).decode(errors="replace") for reading in ended)
        said = next(filter(None, words), "killed")  # the first to fail spoke before the others went
        raise EdgeQPromptError(f"a process of the learning step has ended ({said}): free some memory, or use --engine autograd")


def _poll(gate: int, life: int) -> select.poll:
    found = select.poll()
    found.register(gate, select.POLLIN)
    found.register(life, select.POLLIN | select.POLLHUP)
    return found


def _end(children: list[int], files: list[int], life: int) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    for file in (*files, life):
        os.close(file)
