"""The job: photos in, a diagnosis out. numpy only. Symbols: N photos, C classes, D dimensions of a feature."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify import zero_shot
from edge_qprompt.console import Bars, in_notebook
from edge_qprompt.errors import DataError
from edge_qprompt.learn.doctor.diagnosis import Diagnosis, Mislabelled, Overlap, Poor, Rare, Seen, Twins
from edge_qprompt.learn.doctor.growth import Growth
from edge_qprompt.learn.doctor.suspects import NAMED, WRONG, Suspects
from edge_qprompt.learn.doctor.twins import exact, near
from edge_qprompt.learn.shots import FEW as FEW_PHOTOS
from edge_qprompt.learn.shots import Labels, Shots
from edge_qprompt.learn.threads import one_blas_thread
from edge_qprompt.photos import AnyData, Dataset, Glance, Source, dataset_of, features_of, glances
from edge_qprompt.prompts import DEFAULT_TEMPLATE

Progress = Callable[[str, int, int, str], None]
SMALL_SIDE = 64  # pixels: of photos that were made smaller, up to a fifth more are labelled wrong than of the others
SMALLER = 0.5  # of the usual side: where all photos are as small, the classes are learned from such
BLANK = 3.0  # grey levels, of 256, by which a blank photo varies at most
PLAIN = 2.0  # times that: a class whose photos vary by less, in the median, is plain by its nature, as the sea is
OVERLAP = 0.1  # of the photos of two classes
FEWER = 0.5  # of the usual number of photos
HARMS = ("two classes", "train and test", "twice")


def diagnose(
    backbone: Backbone,
    data: AnyData,
    *,
    names: Sequence[str] | None = None,
    templates: tuple[str, ...] = (DEFAULT_TEMPLATE,),
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Say what is wrong with photos, and what would help most. Needs no torch, and changes nothing.

    Args:
        backbone: frozen encoders.
        data: photos with their classes, in any form that `photos.dataset_of` takes; train and test are looked at together.
        names: class names in the order of the labels, where the data have numbers.
        templates: of the hand-written prompt; several make an ensemble.
        seed: of what is drawn for the curve.
        progress: called with stage, done, total and a note; None shows bars in a notebook, and nothing elsewhere.

    Raises:
        DataError: not a data set, or none of its photos can be read.
        PromptError: a class name or a template that does not fit.
        PhotoError: a photo in memory that is none.
    """
    if not isinstance(data, Dataset):
        data = dataset_of(data, names)
        for note in data.notes:
            warnings.warn(note, stacklevel=2)
    with Bars(in_notebook()) as bars:
        return _diagnose(backbone, data, templates, seed, progress or bars)


@dataclass(frozen=True, eq=False)
class _Photos:
    """The photos of both splits that could be read, and those that could not.

    Attributes:
        features: (N, D).
        labels: (N,).
        seen: (N,) photos.
        glances: (N,), None of a photo that was given as a feature.
    """

    features: NDArray[np.float32]
    labels: Labels
    seen: tuple[Seen, ...]
    glances: tuple[Glance | None, ...]
    unreadable: tuple[tuple[Source, str], ...]

    @classmethod
    def of(cls, backbone: Backbone, data: Dataset, progress: Progress) -> _Photos:
        features, labels, seen = [], [], []
        looks: list[Glance | None] = []
        unreadable: list[tuple[Source, str]] = []
        for split, photos in {"train": data.train, "test": data.test}.items():
            if photos is None or not len(photos):
                continue
            found = features_of(backbone, photos, progress=_stage(progress, f"encode {split}"))
            paths = [photos.paths[i] for i in found.kept]
            given = photos.features is not None
            looks += [None] * len(paths) if given else glances(paths, _stage(progress, f"look at {split}"))
            features.append(found.values[:, 0])
            labels.append(np.array(photos.labels, np.int64)[found.kept])
            seen += [Seen(p, data.names[i], split, d) for p, i, d in zip(paths, labels[-1], found.digests, strict=True)]
            unreadable += found.skipped
        if not seen:
            said = f"; of the first: {unreadable[0][1]}" if unreadable else ""
            raise DataError(f"none of the {len(unreadable)} photos can be read{said}")
        return cls(np.concatenate(features), np.concatenate(labels), tuple(seen), tuple(looks), tuple(unreadable))


def _diagnose(backbone: Backbone, data: Dataset, templates: tuple[str, ...], seed: int, progress: Progress) -> Diagnosis:
    began = time.perf_counter()
    photos = _Photos.of(backbone, data, progress)
    backbone.close()  # one large thing in memory at a time
    text = zero_shot(backbone, data.names, *templates).class_features
    backbone.close()
    read = time.perf_counter()
    twins = tuple(_twins(photos))
    with one_blas_thread():
        judged = _Judged.of(photos, data.names, text, backbone.manifest.logit_scale)
        growth = judged.growth(photos, twins, seed)
    seconds = {"encode": read - began, "think": time.perf_counter() - read}
    counts = Counter(photo.label for photo in photos.seen if photo.split == "train")
    return Diagnosis(
        names=data.names,
        photos=len(photos.seen),
        unreadable=photos.unreadable,
        mislabelled=judged.mislabelled(photos),
        wrong_share=judged.suspects.share if judged.suspects else None,
        twins=twins,
        poor=tuple(_poor(photos)),
        overlaps=judged.overlaps(),
        rare=_rare(counts if counts else Counter(photo.label for photo in photos.seen), data.names),
        growth=growth,
        accuracy=judged.accuracy,
        unknown=tuple(_unknown(photos, data.names, growth)),
        seconds=seconds,
    )


@dataclass(frozen=True, eq=False)
class _Judged:
    """Photos as shots of the classes that have a photo, whose names are `names`; None where nothing can be left out."""

    shots: Shots
    names: tuple[str, ...]
    suspects: Suspects | None

    @classmethod
    def of(cls, photos: _Photos, names: tuple[str, ...], text: NDArray[np.float32], scale: float) -> _Judged:
        present, labels = np.unique(photos.labels, return_inverse=True)
        shots = Shots(photos.features[:, None], labels.astype(np.int64), text[present], scale)
        can = len(present) > 1 and not shots.alone
        return cls(shots, tuple(names[i] for i in present), Suspects.among(shots) if can else None)

    @property
    def compared(self) -> NDArray[np.bool_]:
        """(N,): photos that can be left out, and whose label is not likely wrong."""
        labels = self.shots.labels
        many = np.bincount(labels)[labels] > 1
        return many & (self.suspects.wrong < WRONG) if self.suspects else np.zeros(len(labels), bool)

    @property
    def accuracy(self) -> float | None:
        """Of the photos that can be left out, by their labels as they are."""
        labels = self.shots.labels
        many = np.bincount(labels)[labels] > 1
        return float((self.suspects.answers == labels)[many].mean()) if self.suspects else None

    def mislabelled(self, photos: _Photos) -> tuple[Mislabelled, ...]:
        if self.suspects is None:
            return ()
        wrong, likely = self.suspects.wrong, self.suspects.likely
        limit = WRONG if self.shots.few else NAMED  # with few photos too many would be worth a look
        order = [int(i) for i in np.argsort(-wrong, kind="stable") if wrong[i] >= limit]
        return tuple(Mislabelled(photos.seen[i], self.names[likely[i]], float(wrong[i])) for i in order)

    def overlaps(self) -> tuple[Overlap, ...]:
        if self.suspects is None:
            return ()
        mine, count = self.compared, len(self.names)
        taken = np.zeros((count, count), np.int64)
        np.add.at(taken, (self.shots.labels[mine], self.suspects.answers[mine]), 1)
        sizes, both = taken.sum(axis=1), taken + taken.T
        pairs = [
            Overlap((self.names[a], self.names[b]), int(both[a, b]), int(sizes[a] + sizes[b]))
            for a, b in zip(*np.nonzero(np.triu(both, 1)), strict=True)
        ]
        pairs = [pair for pair in pairs if pair.confused > 1 and pair.share >= OVERLAP]
        return tuple(sorted(pairs, key=lambda pair: (-pair.share, -pair.confused)))

    def growth(self, photos: _Photos, twins: Sequence[Twins], seed: int) -> Growth | None:
        """Of the training photos, each once, without those whose label is likely wrong."""
        if self.suspects is None:
            return None
        again = {id(photo) for each in twins for photo in each.photos[1:]}
        train = any(photo.split == "train" for photo in photos.seen)
        mine = [(photo.split == "train" or not train) and id(photo) not in again for photo in photos.seen]
        places = np.flatnonzero(np.array(mine) & (self.suspects.wrong < WRONG))
        classes = np.unique(self.shots.labels[places])
        shots = self.shots.of(places).among(classes)
        if len(classes) < 2 or shots.alone:
            return None
        return Growth.of(shots, tuple(self.names[i] for i in classes), seed)


def _twins(photos: _Photos) -> Iterator[Twins]:
    """Those of two classes first, then those of train and test; the same files before those that look alike."""
    same = exact([photo.digest for photo in photos.seen])
    again = {i for group in same for i in group[1:]}
    once = [i for i in range(len(photos.seen)) if i not in again]
    alike = near(photos.features[once], [photos.glances[i] for i in once])
    found = [Twins(tuple(photos.seen[i] for i in group), True) for group in same]
    found += [Twins(tuple(photos.seen[once[i]] for i in group), False) for group in alike]
    yield from sorted(found, key=lambda each: (HARMS.index(each.harm), not each.exact))


def _poor(photos: _Photos) -> Iterator[Poor]:
    """Blank ones, then small ones."""
    looked = [(photo, look) for photo, look in zip(photos.seen, photos.glances, strict=True) if look]
    by_class: dict[str, list[float]] = {}
    for photo, look in looked:
        by_class.setdefault(photo.label, []).append(look.spread)
    plain = {label for label, spreads in by_class.items() if len(spreads) > 2 and np.median(spreads) < PLAIN * BLANK}
    for photo, look in looked:
        if look.spread < BLANK and photo.label not in plain:
            yield Poor(photo, "blank", f"its grey levels vary by {look.spread:.1f} of 255")
    sides = [min(look.size) for _, look in looked if look.size]
    limit = min(SMALL_SIDE, SMALLER * float(np.median(sides))) if sides else 0
    for photo, look in sorted(looked, key=lambda each: min(each[1].size or (SMALL_SIDE,))):
        if look.size and min(look.size) < limit:
            yield Poor(photo, "small", f"{look.size[0]} x {look.size[1]} pixels")


def _rare(counts: Counter[str], names: tuple[str, ...]) -> tuple[Rare, ...]:
    usual = float(np.median([counts[name] for name in names]))
    found = [Rare(name, counts[name], usual) for name in names if counts[name] < FEWER * usual]
    return tuple(sorted(found, key=lambda each: each.photos))


def _unknown(photos: _Photos, names: tuple[str, ...], growth: Growth | None) -> Iterator[str]:
    counts = np.bincount(photos.labels, minlength=len(names))
    if none := [name for name, count in zip(names, counts, strict=True) if not count]:
        yield f"no photo of {_some(none)} can be read: nothing is known of them"
    if counts.max() == 1:
        yield "each class has one photo: wrong labels, overlaps and what more photos would bring need two at least"
    elif len(photos.labels) < FEW_PHOTOS * len(names):
        yield f"with fewer than {FEW_PHOTOS} photos a class, most wrong labels cannot be told"
    elif one := [name for name, count in zip(names, counts, strict=True) if count == 1]:
        yield f"one photo of {_some(one)}: whether it is mislabelled cannot be known"
    if growth is None and counts.max() > 1:
        yield "too few training photos can be left out to say what more would bring"
    if not any(photos.glances):
        yield "features were given, not photos: size and blankness cannot be known"


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:5]) + (" ..." if len(items) > 5 else "")


def _stage(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total, "")
