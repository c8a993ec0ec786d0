"""Photos as features with labels, and which of them are the same. Symbols: N photos, C classes, D dimensions of a feature."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.photos import Features, Source

SHOWN = 3  # photos of a kind that a note names


@dataclass(frozen=True)
class Labelled:
    """Features, files and labels (N,) int64 of the photos that could be read."""

    features: Features
    paths: tuple[Source, ...]
    labels: NDArray[np.int64]

    @property
    def centre(self) -> NDArray[np.float32]:
        """Features of the centre crops, (N, D)."""
        return self.features.values[:, 0]

    def take(self, rows: Sequence[int]) -> Labelled:
        """Some of them, in this order."""
        places, every = np.array(rows, np.int64), self.features
        digests = tuple(every.digests[i] for i in rows)
        features = replace(every, values=every.values[places], kept=every.kept[places], digests=digests)
        return Labelled(features, tuple(self.paths[i] for i in rows), self.labels[places])


def once_each(part: Labelled, names: Sequence[str]) -> tuple[Labelled, tuple[str, ...]]:
    """Each photo of a class once, and a sentence about those that are there again, in their class or in another."""
    first: dict[tuple[bytes, int], int] = {}
    classes: dict[bytes, int] = {}
    again, torn = [], []
    for i, (digest, label) in enumerate(zip(part.features.digests, part.labels.tolist(), strict=True)):
        if (here := first.setdefault((digest, label), i)) != i:
            again.append(f"{part.paths[i]} is {part.paths[here]}")
        elif (other := classes.setdefault(digest, i)) != i:
            where = f"{names[part.labels[other]]} as {part.paths[other]}"
            torn.append(f"{part.paths[i]} in {names[label]} is in {where}")
    notes = []
    if again:
        notes.append(f"the same photo again is learned from once: {_some(again)}")
    if torn:
        notes.append(f"the same photo is in two classes, leave it in one: {_some(torn)}")
    return (part.take(list(first.values())) if again else part), tuple(notes)


def unseen(part: Labelled, known: Collection[bytes], what: str) -> tuple[Labelled, tuple[str, ...]]:
    """Without photos whose digests are known, and a sentence about these, which begins with `what` they are."""
    new = [i for i, digest in enumerate(part.features.digests) if digest not in known]
    if len(new) == len(part.labels):
        return part, ()
    same = [str(path) for path, digest in zip(part.paths, part.features.digests, strict=True) if digest in known]
    return part.take(new), (f"{what} that are learned from too are left out: {_some(same)}",)


def _some(items: list[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" ... ({len(items)} in all)" if len(items) > SHOWN else "")
