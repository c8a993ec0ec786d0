"""How good a pack is on photos with known labels, beside the hand-written prompt. Symbols: N photos, C classes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify.classifier import Classifier, zero_shot
from edge_qprompt.classify.scores import Scores
from edge_qprompt.classify.unknown import Unknown, tell_apart
from edge_qprompt.errors import DataError
from edge_qprompt.pack import Pack
from edge_qprompt.photos import AnyData, AnyPhoto, Features, Photos, Source, dataset_of, features_of, source_of
from edge_qprompt.prompts import DEFAULT_TEMPLATE

LEARNED_FROM = "photos learned from"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        names: (C,) classes, those of the photos.
        split: "test"; "all photos" where the data set has no test split; or "photos learned from" where there are no others, so
            that scores are higher than new photos will have.
        learned_from: photos of the split that the pack was learned from; left out where there are others; None: not known.
        pack: scores of the pack.
        zero_shot: scores of the hand-written prompt on the same photos.
        unknown: how photos of none of the classes are told from them; None where there were none.
        skipped: each photo that could not be read, and why.
        precision: of the image encoder that the pack ran on.
    """

    names: tuple[str, ...]
    split: str
    learned_from: int | None
    pack: Scores
    zero_shot: Scores
    unknown: Unknown | None
    skipped: tuple[tuple[Source, str], ...]
    precision: str

    def __repr__(self) -> str:
        return (
            f"<Evaluation on {self.pack.n} photos of {len(self.names)} classes ({self.split}): accuracy {self.accuracy:.3f}, "
            f"hand-written prompt {self.zero_shot.accuracy:.3f}>"
        )

    @property
    def accuracy(self) -> float:
        """Share of the photos that the pack labels right, 0 to 1."""
        return self.pack.accuracy


def evaluate(
    backbone: Backbone,
    pack: Pack,
    data: AnyData,
    *,
    names: Sequence[str] | None = None,
    adapter: Pack | None = None,
    learned_from: Collection[bytes] | None = None,
    others: Sequence[AnyPhoto] = (),
    templates: tuple[str, ...] = (DEFAULT_TEMPLATE,),
    strict: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Accuracy and calibration of a pack, beside the hand-written prompt. Needs no torch.

    Args:
        backbone: the one that the pack was learned on.
        pack: what `adapt` made.
        data: photos with their classes, in any form that `photos.dataset_of` takes; the test split where there is one.
        names: class names in the order of the labels, where the data have numbers.
        adapter: the pack that holds the adapter, where the pack refers to one.
        learned_from: SHA-256 of the photos that the pack was learned from, as `State.known` has them; they are left out. None
            where they are not known.
        others: photos of none of the classes.
        templates: of the hand-written prompt; several make an ensemble.
        strict: raise instead of skipping a photo that cannot be read.
        progress: called with a stage, photos done and photos in all.

    Raises:
        DataError: not a data set, or no photo of it can be read.
        FingerprintError: the pack belongs to another backbone.
        PhotoError: with `strict`, the first photo that cannot be read.
        PromptError: a class name or a template that does not fit.
    """
    dataset = dataset_of(data, names)
    photos, split = (dataset.test, "test") if dataset.test else (dataset.train, "all photos")
    learned = Classifier(backbone, pack, dataset.names, adapter)
    by_hand = zero_shot(backbone, dataset.names, *templates)
    read = partial(_features, photos, strict=strict, progress=progress)
    features = read(learned.backbone, "encode photos")
    known = [digest in (learned_from or ()) for digest in features.digests]
    new = [i for i, seen in enumerate(known) if not seen]
    if all(known):
        split, new = LEARNED_FROM, list(range(len(known)))
    apart, foreign = None, None
    if others:
        sources = tuple(source_of(photo, f"photo {i} of the others") for i, photo in enumerate(others))
        foreign = _features(Photos(sources, ()), learned.backbone, "encode the others", strict=strict, progress=progress)
        strange = [i for i, digest in enumerate(foreign.digests) if digest not in (learned_from or ())]
        strange = strange or list(range(len(foreign.digests)))
        labels = np.array(photos.labels, np.int64)[features.kept[new]]
        apart = tell_apart(learned, features.values[new, 0], labels, foreign.values[strange, 0])
    by_hand_features = read(backbone, "encode photos for the hand-written prompt") if learned.own_encoder else features
    return Evaluation(
        names=dataset.names,
        split=split,
        learned_from=None if learned_from is None else sum(known),
        pack=score(learned, photos, features, new),
        zero_shot=score(by_hand, photos, by_hand_features, new),
        unknown=apart,
        skipped=features.skipped + (foreign.skipped if foreign else ()),
        precision=learned.backbone.precision,
    )


def score(classifier: Classifier, photos: Photos, features: Features, rows: Sequence[int] | None = None) -> Scores:
    """How right a classifier is about photos, or about some rows of them, by their features through its encoder."""
    chosen = slice(None) if rows is None else np.array(rows, np.int64)
    labels = np.array(photos.labels)[features.kept][chosen]
    return Scores.of(classifier.probabilities(features.values[chosen, 0]), labels)


def _features(photos: Photos, encoder: Backbone, stage: str, *, strict: bool, progress: Progress) -> Features:
    features = features_of(encoder, photos, strict=strict, progress=partial(progress, stage))
    if not len(features.kept):
        raise DataError(f"none of the {len(photos)} photos can be read; of the first: {features.skipped[0][1]}")
    return features
