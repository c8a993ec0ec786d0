"""The precision of the image encoder: which one to take, and what a pack loses on another than its own. Decisions only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_qprompt.backbone.changes import ROLES as ENCODER_ROLES
from edge_qprompt.backbone.manifest import PrecisionRecord
from edge_qprompt.pack import Pack, Precision

FP32 = "fp32"
AUTO = "auto"
MIN_AGREEMENT = 0.98  # of the photos measured at export; below it, a precision is never chosen by itself
MARGIN = 1.1  # a quantized encoder costs accuracy, so it has to be faster by more than a trial's noise

Records = Mapping[str, PrecisionRecord]


def candidates(records: Records) -> tuple[str, ...]:
    """The precisions that may be chosen by themselves: fp32, and those that pass the gate; all where none does."""
    passing = tuple(name for name, record in records.items() if name == FP32 or record.top1_agreement >= MIN_AGREEMENT)
    return passing or tuple(records)


def fastest(seconds: Mapping[str, float]) -> str:
    """The precision to use.

    Args:
        seconds: of one photo, by precision; at least one.
    """
    best = min(seconds, key=lambda name: seconds[name])
    return FP32 if seconds.get(FP32, float("inf")) < MARGIN * seconds[best] else best


def reason(choice: str, seconds: Mapping[str, float], records: Records) -> str:
    """Why that one, for people, on one line.

    Args:
        choice: of `fastest`.
        seconds: what it was chosen by; empty if there was nothing to measure.
        records: of all precisions, those that were not candidates included.
    """
    parts = []
    if seconds:
        times = [f"{1000 * seconds[name]:.0f} ms in {name}" for name in sorted(seconds, key=lambda name: seconds[name])]
        parts.append(f"a photo takes {_listed(times)} on this machine")
        if choice == FP32:
            parts[0] += f", and another has to be {MARGIN}x faster"
    if choice != FP32:
        parts.append(_loss([choice], records))
    if left := [name for name in records if name not in candidates(records)]:
        parts.append(f"{' and '.join(left)} left out: {_loss(left, records)}, at most {1 - MIN_AGREEMENT:.0%} may")
    return f"precision {choice}: {'; '.join(parts)}"


def learned_for(pack: Pack) -> str:
    """The precision whose features a pack was learned from, by name."""
    return Precision(pack.precision).name.lower() if pack.precision in set(Precision) else f"precision {pack.precision}"


def common(packs: Sequence[Pack], records: Records) -> str:
    """What to open a backbone with for some packs: the precision that all were learned for, or `AUTO`."""
    wanted = {learned_for(pack) for pack in packs}
    return next(iter(wanted)) if len(wanted) == 1 and wanted <= records.keys() else AUTO


def mismatch(name: str, pack: Pack, precision: str, records: Records) -> str | None:
    """What to say about a pack that meets another precision than it was learned for; None where nothing is lost.

    A pack without tensors has learned from no features, and one with encoders of its own runs in fp32 everywhere.

    Args:
        name: of the pack, for people.
        pack: to be used.
        precision: of the backbone that it is used on.
        records: of that backbone.
    """
    learned = learned_for(pack)
    learned_nothing = not pack.tensors and pack.shared_adapter is None
    if learned == precision or learned_nothing or any(tensor.role in ENCODER_ROLES for tensor in pack.tensors):
        return None
    quantized = [each for each in (learned, precision) if each != FP32]
    cost = _loss(quantized, records) if records.keys() >= set(quantized) else f"this backbone has no {learned} to compare with"
    instead = f", or run with --precision {learned}" if learned in records else ""
    return (
        f"{name} was learned for {learned} and runs on {precision}: {cost}; learn it again with --precision {precision}{instead}"
    )


def _loss(names: Sequence[str], records: Records) -> str:
    """What precisions cost, as measured at export."""
    shares = [f"{1 - records[name].top1_agreement:.1%} in {name}".replace("%", " %") for name in names]
    return f"of {records[names[0]].photos} photos measured at export {_listed(shares)} got another label"


def _listed(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
