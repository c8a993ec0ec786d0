"""How fast each precision is on this machine: tried at first use, remembered in the cache folder.

int8 is twice as fast as float32 on one processor and slower on the next, so nothing but a trial
tells. What is remembered is the trial's medians, by all that could change them; what cannot be read
is measured again, and what cannot be written costs the next start a trial.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from edge_qprompt.files import cache_folder, write_whole

FILE_NAME = "speed.json"
MAX_FILE_BYTES = 1 << 20
MAX_TRIALS = 100  # remembered; the oldest goes
ROUNDS = 5
SETTLE_SECONDS = 0.02
CPU_FIELDS = ("model name", "flags", "Features", "CPU implementer", "CPU part")  # of /proc/cpuinfo, x86 and Arm

Job = Callable[[], object]
Clock = Callable[[], float]


Seconds = dict[str, float]  # of one photo, by precision


def remembered_trial(
    facts: Sequence[str], precisions: Sequence[str], job_of: Callable[[str], Job], clock: Clock = time.perf_counter
) -> Seconds:
    """Median seconds of one photo in each precision on this machine, measured if they are not remembered.

    Args:
        facts: about the model and what runs it; the machine's own are added.
        precisions: to try, at least one.
        job_of: gives what encodes one photo in a precision; only called to measure.
        clock: seconds.
    """
    path = cache_folder() / FILE_NAME
    key = hashlib.sha256("\n".join([*facts, machine()]).encode()).hexdigest()[:32]
    trials = _read(path)
    if trials.get(key, {}).keys() != set(precisions):
        medians = median_seconds([job_of(precision) for precision in precisions], ROUNDS, clock)
        trials[key] = dict(zip(precisions, medians, strict=True))
        _write(path, trials)
    return trials[key]


def median_seconds(jobs: Sequence[Job], rounds: int, clock: Clock = time.perf_counter) -> list[float]:
    """Median seconds of each job.

    They take turns, so that other work on the machine meets all of them, with pauses, since OpenMP's idle threads
    go on spinning for some milliseconds after a job and would cost the next one its time.
    """
    times: list[list[float]] = [[] for _ in jobs]
    for _ in range(rounds + 1):
        for job, mine in zip(jobs, times, strict=True):
            time.sleep(SETTLE_SECONDS)
            start = clock()
            job()
            mine.append(clock() - start)
    return [float(np.median(mine[1:])) for mine in times]  # the first round warms up


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What of this machine decides which kernels run: processor, its instructions, its number of cores."""
    facts = [platform.machine(), platform.processor(), str(os.cpu_count())]
    with suppress(OSError):  # not on Linux
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        facts += sorted({f"{name.strip()}={value.strip()}" for name, _, value in lines if name.strip() in CPU_FIELDS})
    return "\n".join(facts)


def _read(path: Path) -> dict[str, Seconds]:
    """All trials that can be believed; none of a damaged file."""
    try:
        with path.open("rb") as file:
            stored = json.loads(file.read(MAX_FILE_BYTES))
        return {key: {name: _checked(seconds) for name, seconds in trial.items()} for key, trial in stored.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _checked(seconds: object) -> float:
    """A time that a clock gives."""
    if not isinstance(seconds, float) or not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"a photo cannot take {seconds!r} seconds")
    return seconds


def _write(path: Path, trials: Mapping[str, Seconds]) -> None:
    newest = dict(list(trials.items())[-MAX_TRIALS:])
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(newest, indent=1) + "\n").encode())
