"""Change what a pack was learned from, and learn it anew, at once: teach, forget, rename, undo.

Each gives the pack that `adapt` would give for the photos as they are then, to the last byte. For methods in closed form, which
"auto" takes wherever one fits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Backbone, name_tokens
from edge_qprompt.classify import Classifier, zero_shot
from edge_qprompt.errors import DataError, FingerprintError, StateError
from edge_qprompt.learn.at_once import assembled, at_once, provenance
from edge_qprompt.learn.candidates import AUTO, Candidate, Expected, only_by_hand
from edge_qprompt.learn.method import ClosedForm
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.state import Change, State, in_order, label_of, rows_from, with_class
from edge_qprompt.learn.state_check import OTHER
from edge_qprompt.pack import Pack, names_section
from edge_qprompt.photos import AnyPhoto, Views, extract, forget_features, read, source_of

Label = str | None  # None: of none of the classes
AGAIN = "learn it with `edge-qprompt adapt` again"


@dataclass(frozen=True)
class Relearned:
    """What came out.

    Attributes:
        pack: ready to save.
        state: what it was learned from. Save it before the pack: its `before` then tells of a pack that was not written.
        method: that learned it.
        candidates: what "auto" chose from; empty where a method was named.
        expected: accuracy to expect on new photos, by photos that were left out; None where no class has a second photo.
        notes: a sentence for each thing that was done otherwise than asked, or besides.
    """

    pack: Pack
    state: State
    method: str
    candidates: tuple[Candidate, ...]
    expected: Expected | None
    notes: tuple[str, ...] = ()


def teach(backbone: Backbone, state: State, photos: Sequence[tuple[AnyPhoto, Label]], *, strict: bool = False) -> Relearned:
    """Learn more photos. One that is known under another label gets the new one; one that is known so already changes nothing.

    Args:
        backbone: the one that the state is of.
        state: what was learned so far: of an `Adaptation`, a `Relearned`, or `State.beside` a pack.
        photos: of which each is a path, the bytes of an image file, a PIL image or an array (H, W, 3) of uint8, and its class;
            a class that is new begins with it; None is a photo of none of the classes, by which the pack tells these.
        strict: raise instead of skipping a photo that cannot be read.

    Raises:
        StateError: the pack was not learned in closed form, or one photo is given two labels.
        DataError: no photo can be read; with `strict`, one of them cannot.
        PromptError: a class name that does not fit, or no pack fits the budget any more.
        FingerprintError: the state belongs to another backbone, or to another precision of it.
    """
    check(backbone, state, [label for _, label in photos])
    sources = [source_of(photo, f"photo {i}") for i, (photo, _) in enumerate(photos)]
    found = extract(backbone, sources, views=Views(state.views, state.settings.loop.seed), strict=strict)
    if photos and not len(found.kept):
        raise DataError(f"none of the {len(photos)} photos can be read; of the first: {found.skipped[0][1]}")
    rows = zip(found.kept.tolist(), found.digests, found.values, strict=True)
    encoded = [(Encoded(str(sources[i]), digest, features), photos[i][1]) for i, digest, features in rows]
    result = teach_encoded(backbone, state, encoded)
    return replace(result, notes=(*(f"skipped: {reason}" for _, reason in found.skipped), *result.notes))


@dataclass(frozen=True)
class Encoded:
    """A photo that somebody has encoded.

    Attributes:
        name: what to call it.
        digest: SHA-256 of its bytes.
        features: (V, D) float32 of the views that a state has, the centre crop first.
    """

    name: str
    digest: bytes
    features: NDArray[np.float32]


def teach_encoded(backbone: Backbone, state: State, photos: Sequence[tuple[Encoded, Label]]) -> Relearned:
    """As `teach`, of photos that are encoded already; no photo and no cache is touched."""
    check(backbone, state, [label for _, label in photos])
    wanted: dict[bytes, tuple[Encoded, Label]] = {}
    for photo, said in photos:
        label = None if said is None else label_of(said, state.names)
        _, known = wanted.setdefault(photo.digest, (photo, label))
        if known != label:
            raise StateError(f"{photo.name} is given two labels, {_told(known)} and {_told(label)}: give it one")
    notes, new = [], []
    for photo, label in wanted.values():
        before = _labels_of(state, photo.digest)
        if before == (label,):
            notes.append(f"{photo.name} is learned as {_told(label)} already")
            continue
        new.append((photo, label, before))
        if before:
            notes.append(f"{photo.name} was learned as {' and '.join(map(_told, before))}, and is {_told(label)} now")
    if not new:
        return _learned(backbone, state, tuple(notes), state)
    change = Change(state.names, tuple((photo.digest.hex(), before) for photo, _, before in new))
    features = np.stack([photo.features for photo, _, _ in new])
    notes += [
        f"{label} is a new class" for label in dict.fromkeys(label for _, label, _ in new) if label not in (*state.names, None)
    ]
    changed = _with_photos(state, [photo.digest for photo, _, _ in new], [label for _, label, _ in new], features)
    notes += [f"{name} has no photo left, and is no class any more" for name in state.names if name not in changed.names]
    result = _learned(backbone, replace(changed, history=(*state.history, change)), (), state)
    strange = [photo for photo, label, _ in new if label is None]
    if strange:
        fooled = Classifier(backbone, result.pack).knows(np.stack([photo.features[0] for photo in strange]))
        notes += [
            f"{photo.name} still looks like one of the classes: to call it unknown, too many right answers would be lost"
            for photo, seen in zip(strange, fooled.tolist(), strict=True)
            if seen
        ]
    return replace(result, notes=tuple(notes))


def forget(backbone: Backbone, state: State, photos: Sequence[AnyPhoto] = (), *, label: str | None = None) -> Relearned:
    """Unlearn photos, or a whole class: neither the pack nor the state, nor a cache of features, then knows of them.

    What was changed before can't be undone any more, since it may tell of them. Of the photos some must have been learned from;
    `notes` names the others, and a cache that could not be cleared.

    Args:
        backbone, state: as of `teach`.
        photos: to forget, in any form that `teach` takes; they are recognised by their bytes.
        label: class to forget with all its photos.

    Raises:
        StateError: photos or a label that it was not learned from, or fewer than two classes would be left.
        PhotoError: a file cannot be read.
        PromptError, FingerprintError: as of `teach`.
    """
    check(backbone, state)
    rows, strange = np.zeros(len(state.labels), bool), []
    digests = []
    for i, photo in enumerate(photos):
        source = source_of(photo, f"photo {i}")
        digests.append(hashlib.sha256(read(source)).digest())
        mine = state.rows_of({digests[-1]})
        rows |= mine
        strange += [] if mine.any() else [str(source)]
    if strange and not rows.any() and label is None:
        raise StateError(
            f"{strange[0]} is none of the {len(state.labels)} photos that the pack was learned from: give the very file, "
            "or its class with --label"
        )
    if label is not None:
        rows |= state.labels == _class_of(state, label)
    gone = {*digests, *(row.tobytes() for row in state.digests[rows])}
    changed = replace(state.without(rows), history=())
    result = _learned(backbone, changed, (), state)
    notes = [f"{name} is none of the photos that the pack was learned from" for name in strange]
    return replace(result, notes=(*notes, *forget_features(sorted(gone))))


def rename(backbone: Backbone, state: State, old: str, new: str) -> Relearned:
    """Give a class another name.

    Raises:
        StateError: there is no class of the old name, or one of the new name already.
        PromptError, FingerprintError: as of `teach`.
    """
    check(backbone, state, [new])
    place, name = _class_of(state, old), label_of(new)
    if name in state.names:
        raise StateError(f"there is a class {name!r} already: teach its photos that label, or choose another name")
    change = Change(state.names, renamed=(state.names[place], name))
    changed = _renamed(state, state.names[place], name)
    return _learned(backbone, replace(changed, history=(*state.history, change)), (), state)


def remade(backbone: Backbone, state: State) -> Relearned:
    """The pack of a state as it is.

    Raises:
        StateError, PromptError, FingerprintError: as of `teach`.
    """
    check(backbone, state)
    return _learned(backbone, state, (), state)


def undo(backbone: Backbone, state: State) -> Relearned:
    """Take the last change back that `teach` or `rename` made and no `forget` came after.

    Raises:
        StateError: there is none.
        PromptError, FingerprintError: as of `teach`.
    """
    check(backbone, state)
    if not state.history:
        raise StateError("there is nothing to undo: photos were neither taught nor a class renamed, or some were forgotten since")
    *history, last = state.history
    changed = state
    if last.renamed is not None:
        changed = _renamed(state, *reversed(last.renamed))
    for digest, labels in last.photos:
        key = bytes.fromhex(digest)
        mine = changed.rows_of({key})
        features = np.repeat(changed.features[mine][:1], len(labels), axis=0)
        changed = _with_photos(changed.without(mine), [key] * len(labels), labels, features)
    if set(changed.names) != set(last.names):
        raise StateError(
            f"the last change was made among other classes than {', '.join(changed.names[:10])}: the state is damaged"
        )
    return _learned(backbone, replace(changed.named(last.names), history=tuple(history)), (), state)


def _with_photos(state: State, digests: Sequence[bytes], labels: Sequence[Label], features: NDArray[np.floating]) -> State:
    """With photos (N,) under labels (N,), and under no others; features are (N, V, D)."""
    names = _with_classes(state.names, labels)
    wide = state.named(names)
    old = np.concatenate([wide.rows_of(set(digests)), np.zeros(len(digests), bool)])
    joined = replace(
        wide,
        digests=np.concatenate([wide.digests, rows_from(digests)]),
        labels=np.concatenate(
            [wide.labels, np.array([OTHER if label is None else names.index(label) for label in labels], np.int64)]
        ),
        features=np.concatenate([wide.features, features.astype(np.float16)]),
    )
    return joined.without(old).arranged()


def _with_classes(names: tuple[str, ...], labels: Sequence[Label]) -> tuple[str, ...]:
    for label in labels:
        names = names if label is None else with_class(names, label)
    return names


def _told(label: Label) -> str:
    return "none of the classes" if label is None else label


def _renamed(state: State, old: str, new: str) -> State:
    """With a class under another name, and in that name's place."""
    names = tuple(new if name == old else name for name in state.names)
    return replace(state, names=names).named(in_order(names, state.names))


def _labels_of(state: State, digest: bytes) -> tuple[Label, ...]:
    return tuple(state.names[label] if label != OTHER else None for label in state.labels[state.rows_of({digest})])


def _class_of(state: State, label: str) -> int:
    """The position of a class."""
    if (name := label_of(label, state.names)) not in state.names:
        raise StateError(f"there is no class {name!r}, there are {', '.join(state.names[:10])}")
    return state.names.index(name)


def _learned(backbone: Backbone, state: State, notes: tuple[str, ...], before: State) -> Relearned:
    if len(state.names) < 2:
        raise StateError(f"{len(state.names)} of {len(before.names)} classes would be left, a pack needs two: keep some photos")
    by_hand = zero_shot(backbone, state.names, *state.settings.method_settings.templates)
    found = at_once(backbone, state, by_hand)
    assert found.method is not None  # `check` has seen to that
    if only_by_hand(found.candidates):
        raise StateError(f"nothing that is learned at once fits the budget: {AGAIN}, or with more bytes")
    told = provenance(found.settings, None, state.photos)
    pack = Pack.decode(assembled(backbone, found.method.number, found.method.result(), state.names, told).encode())
    after = replace(state, pack_id=pack.pack_id, before=before.pack_id)
    return Relearned(pack, after, found.settings.method, found.candidates, found.expected, notes)


def check(backbone: Backbone, state: State, labels: Sequence[Label] = ()) -> None:
    """Make sure, before a photo is encoded, that a state can be learned anew, with more labels if they are new.

    Raises:
        StateError, PromptError, FingerprintError: as of `teach`.
        PackError: a name that no pack can hold.
    """
    if (method := state.settings.method) != AUTO and not issubclass(METHODS[method], ClosedForm):
        raise StateError(f"the pack was learned step by step, by {method}, which takes longer: {AGAIN}")
    if backbone.manifest.fingerprint != state.fingerprint:
        raise FingerprintError(f"the pack was learned on another backbone than {backbone.manifest.name}: give that one")
    if backbone.feature_kind != state.encoder:
        raise FingerprintError(
            f"the pack was learned with the image encoder {state.encoder}, this one is {backbone.feature_kind}: "
            f"open the backbone in {state.precision}, with the providers that it was learned with"
        )
    names = _with_classes(state.names, [label if label is None else label_of(label, state.names) for label in labels])
    assert state.settings.n_ctx
    name_tokens(backbone.tokenizer, names, state.settings.n_ctx)
    names_section(names)
