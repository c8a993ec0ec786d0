"""Memory and processor time of a server, over all its processes: workers and decoders too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """What Linux says about a process (proc(5), /proc/PID/stat).

    Attributes:
        parent: its parent's number.
        cpu: seconds, with those of children that have ended and were waited for.
        started: seconds after the machine.
        memory: resident bytes.
    """

    parent: int
    cpu: float
    started: float
    memory: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """A process; None where it has ended."""
        try:
            text = (PROC / str(pid) / "stat").read_text()
        except OSError:
            return None
        fields = text[text.rindex(")") + 2 :].split()  # the name before may hold anything; fields[0] is number 3
        cpu = sum(map(int, fields[11:15])) / TICKS
        return cls(int(fields[1]), cpu, int(fields[19]) / TICKS, int(fields[21]) * PAGE)


def family(root: int) -> list[Process]:
    """A process and all its descendants."""
    everyone = {pid: found for pid in _pids() if (found := Process.of(pid)) is not None}
    children: dict[int, list[int]] = {}
    for pid, process in everyone.items():
        children.setdefault(process.parent, []).append(pid)
    pids = [root] if root in everyone else []
    for pid in pids:  # grows meanwhile
        pids += children.get(pid, [])
    return [everyone[pid] for pid in pids]


class Processes(Collector):
    """What prometheus_client's ProcessCollector says of one process, for a process and all its descendants.

    Args:
        root: the number of the process.
    """

    def __init__(self, root: int) -> None:
        self._root = root

    def describe(self) -> list[Metric]:
        """The metrics, without values."""
        return list(_metrics([]))

    def collect(self) -> Iterator[Metric]:
        """The metrics, read now."""
        yield from _metrics(family(self._root))


def _metrics(found: list[Process]) -> Iterator[Metric]:
    memory = GaugeMetricFamily(
        "process_resident_memory_bytes", "Resident bytes of all processes; what they share counts in each."
    )
    cpu = CounterMetricFamily("process_cpu_seconds", "Seconds of processor time of all processes.")
    start = GaugeMetricFamily("process_start_time_seconds", "When the first process started, in seconds since 1970.")
    count = GaugeMetricFamily("edge_qprompt_processes", "Processes of this server: its workers and decoders among them.")
    if found:
        memory.add_metric([], sum(process.memory for process in found))
        cpu.add_metric([], sum(process.cpu for process in found))
        start.add_metric([], _booted() + min(process.started for process in found))
        count.add_metric([], len(found))
    yield from (memory, cpu, start, count)


def _pids() -> list[int]:
    return [int(each.name) for each in PROC.iterdir() if each.name.isdecimal()] if PROC.is_dir() else []


def _booted() -> float:
    """Seconds since 1970."""
    lines = (PROC / "stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime")))
