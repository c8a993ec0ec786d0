"""What came of an adaptation, as facts and as lines to read."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_agent import terminal

if TYPE_CHECKING:
    from edge_qprompt.learn import Adaptation, Candidate

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, kilobytes elsewhere
STATUS = Path("/proc/self/status")
CURVE_POINTS = 200  # more than a plot can show, and a report stays small


def facts(result: Adaptation, out: Path) -> dict[str, Any]:
    """What is told of an adaptation whose pack lies at `out`, plain enough for JSON."""
    held = result.held_out
    return {
        "pack": str(out),
        "pack_id": result.pack.pack_id,
        "bytes": out.stat().st_size,
        "classes": len(result.names),
        "class_names": list(result.names),
        "images_used": result.used,
        "images_skipped": len(result.skipped),
        "notes": list(result.notes),
        "skipped": [{"path": str(path), "reason": reason} for path, reason in result.skipped],
        "candidates": [_candidate(each, result) for each in result.candidates],
        "expected_accuracy": result.expected.accuracy if result.expected else None,
        "expected_margin": result.expected.margin if result.expected else None,
        "steps": result.run.steps,
        "engine": result.engine[0],
        "engine_note": result.engine[1],
        "reclusterings": result.facts.get("reclusterings", 0),
        "resumed_at_epoch": result.run.resumed_at,
        "loss_by_epoch": result.run.losses,
        "losses": curve(result.run.losses),
        "train_accuracy": result.train.pack,
        "train_zero_shot_accuracy": result.train.zero_shot,
        "held_out_accuracy": held.pack if held else None,
        "zero_shot_accuracy": held.zero_shot if held else result.train.zero_shot,
        "held_out_images": held.n if held else 0,
        "held_out_source": result.held_out_source,
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


def _candidate(candidate: Candidate, result: Adaptation) -> dict[str, Any]:
    seen = candidate.expected
    chosen = candidate.method == result.method and candidate.bytes == result.pack.size
    return {
        "method": candidate.method,
        "bits": candidate.bits,
        "bytes": candidate.bytes,
        "fits": candidate.fits,
        "chosen": chosen,
        "accuracy": seen.accuracy if seen else None,
        "margin": seen.margin if seen else None,
        "seconds": round(candidate.seconds, 3),
    }


def curve(losses: Sequence[float]) -> list[tuple[int, float]]:
    """Epoch, counted from 1, and loss: at most CURVE_POINTS, evenly thinned, the first and the last among them."""
    import numpy as np

    chosen = np.linspace(0, len(losses) - 1, min(len(losses), CURVE_POINTS)).round().astype(int)
    return [(int(i) + 1, losses[i]) for i in chosen]


def lines(r: dict[str, Any]) -> list[str]:
    """The same for people."""
    seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in r["seconds"].items())
    engine = f", {r['engine_note']}" if r["engine_note"] else ""
    steps = f" in {r['steps']} steps" if r["steps"] else ""
    return [
        *_table(r["candidates"]),
        f"{r['pack']}  {r['bytes']} bytes, {r['classes']} classes, {r['method']} on {r['backbone']} {r['precision']}",
        _accuracy(r),
        f"learned    from {r['images_used']} photos{steps}{engine} ({seconds}; {r['peak_memory_mb']:.0f} MB)",
        *([f"report     {r['report']}"] if "report" in r else []),
    ]


def _accuracy(r: dict[str, Any]) -> str:
    """Of photos that were not learned from; where there are none, what those that were learned from say, in these words."""
    before, expected = terminal.percent(r["zero_shot_accuracy"]), None
    if r["expected_accuracy"] is not None:
        expected = f"expected on new photos: {terminal.percent(r['expected_accuracy'])}, +- {100 * r['expected_margin']:.1f}"
    if r["held_out_source"]:
        where = f"{r['held_out_images']} {r['held_out_source']} photos".replace("photos photos", "photos")
        after = f"{before} before, {terminal.percent(r['held_out_accuracy'])} after, on {where}"
        return f"accuracy   {after}" + (f" ({expected})" if expected else "")
    if expected:
        return f"accuracy   {expected} (each photo labelled by what the others teach); {before} before"
    learned = terminal.percent(r["train_accuracy"])
    return f"accuracy   {before} before, {learned} after, on the photos learned from: new ones have less"


def _table(candidates: list[dict[str, Any]]) -> list[str]:
    """What was tried, a line each."""
    lines = []
    for each in candidates:
        bits = f"{each['bits']} bit{'s' * (each['bits'] > 1)}" if each["bits"] else ""
        found = "over the budget" if not each["fits"] else "no photo can be left out"
        if each["accuracy"] is not None:
            found = f"{terminal.percent(each['accuracy']):>7} +- {100 * each['margin']:.1f}"
        mark = "*" if each["chosen"] else " "
        lines.append(f"tried    {mark} {each['method']:<10} {bits:<7} {each['bytes']:>6} bytes  {found}")
    return lines


def peak_memory_mb() -> float:
    """Largest resident size of this process; Linux's getrusage also remembers that of its parent."""
    if STATUS.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())):
        return int(found[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT / 1e6
