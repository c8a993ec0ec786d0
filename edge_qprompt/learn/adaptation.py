"""What `adapt` gives. Symbols: N photos, C classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.learn.candidates import Candidate, Expected
from edge_qprompt.learn.run import Run
from edge_qprompt.learn.state import State
from edge_qprompt.pack import Pack
from edge_qprompt.photos import Source


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the pack and of the hand-written prompt on the same photos, 0 to 1."""

    pack: float
    zero_shot: float
    n: int


@dataclass(frozen=True)
class Checked:
    """What the pack says of photos: their files, right labels (N,) and probabilities (N, C)."""

    paths: tuple[Source, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass
class Adaptation:
    """What came out.

    Attributes:
        pack: ready to save.
        state: what it was learned from, as features and digests; `teach` and `forget` take it.
        names: the classes.
        used, skipped: training photos learned from; those that could not be read, and why.
        notes: a sentence for each thing about the photos that is probably not meant, e.g. the same photo in two classes.
        method: that learned it.
        candidates: what "auto" chose from; empty where a method was named.
        expected: accuracy to expect on new photos, by photos that were left out; None of methods that learn step by step, or
            where no class has a second photo.
        run: what the loop did.
        facts: the method's own numbers.
        weights: what was learned, by name, before it was quantized.
        train: accuracy on the photos learned from (their centre crops).
        held_out: accuracy on the test split, else on training photos beyond the shots, else None.
        held_out_source: "test", "unused training photos" or None.
        checked: the held-out photos one by one, or those learned from where there are no others.
        seconds: by stage.
        engine: name of what computed the steps, and a note about it; empty where nothing was learned.
        snapshots: packs by epoch, if they were wanted.
    """

    pack: Pack
    state: State
    names: tuple[str, ...]
    used: int
    skipped: tuple[tuple[Source, str], ...]
    notes: tuple[str, ...]
    method: str
    candidates: tuple[Candidate, ...]
    expected: Expected | None
    run: Run
    facts: dict[str, Any]
    weights: dict[str, NDArray[np.float32]]
    train: Accuracy
    held_out: Accuracy | None
    held_out_source: str | None
    checked: Checked
    seconds: dict[str, float]
    engine: tuple[str, str] = ("", "")
    snapshots: dict[int, Pack] = field(default_factory=dict)

    def __repr__(self) -> str:
        measured, source = self.held_out or self.train, self.held_out_source or "photos learned from"
        found = f"{measured.pack:.3f} ({source})"
        if not self.held_out and self.expected:
            found = f"{self.expected.accuracy:.3f} to expect, +- {self.expected.margin:.3f} (photos left out in turn)"
        return (
            f"<Adaptation to {len(self.names)} classes from {self.used} photos by {self.method}: {self.pack.size} bytes, "
            f"accuracy {found}, hand-written prompt {measured.zero_shot:.3f}>"
        )
