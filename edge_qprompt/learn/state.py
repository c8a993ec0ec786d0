"""What a pack was learned from: the features and digests of its photos, never the photos; and the file beside the pack.

From it a closed form is learned anew, to the last byte as `adapt` would from the photos themselves, in whatever order these
came. One safetensors file, `flowers.qpk.state` beside `flowers.qpk`, written whole: features in float16, half a kilobyte a photo
on a backbone of 256 dimensions.

numpy only. Symbols: N photos, V views, C classes, D dimensions of a feature.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_qprompt.backbone import Backbone
from edge_qprompt.errors import PromptError, StateError
from edge_qprompt.files import write_whole
from edge_qprompt.learn.labelled import Labelled
from edge_qprompt.learn.settings import AdaptSettings, restored
from edge_qprompt.learn.shots import Labels, Shots
from edge_qprompt.learn.state_check import DIGEST_BYTES, OTHER, check
from edge_qprompt.photos import natural
from edge_qprompt.prompts import readable

SUFFIX = ".state"
FORMAT = 1
MAX_STATE_BYTES = 1 << 30
FACTS_SHARE = 4  # of a state's bytes, what is no array may have one in so many
AGAIN = "learn the pack again with `edge-qprompt adapt` to have one"
BAD = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, PromptError)  # of what is read


@dataclass(frozen=True)
class Change:
    """What one call of `teach` or `rename` changed, as much of it as `undo` needs.

    Attributes:
        names: classes before it.
        photos: hex digest of each photo that was taught, and the labels that it had before; None is OTHER.
        renamed: old and new name of a class; None where photos were taught.
    """

    names: tuple[str, ...]
    photos: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    renamed: tuple[str, str] | None = None


@dataclass(frozen=True, eq=False)
class State:
    """Photos that a pack was learned from, as features, and how.

    Rows lie in the order of their labels, and of their features within a label: what is learned depends neither on the order in
    which photos came nor on what kind of file they were.

    Attributes:
        fingerprint: of the backbone, hex.
        precision: of its image encoder.
        encoder: what besides decides a feature's bits, as of `Backbone.feature_kind`.
        settings: how it was learned.
        names: (C,) classes, in the order of the labels.
        digests: (N, 32) uint8, SHA-256 of each photo's bytes.
        labels: (N,) int64; OTHER of photos of none of the classes.
        features: (N, V, D) float16, unit length; the first view is the centre crop.
        history: changes that can be undone, the last one last.
        pack_id: of the pack that was learned from it; empty before.
        before: of the pack that this one takes the place of, where a change was made.
    """

    fingerprint: str
    precision: str
    encoder: str
    settings: AdaptSettings
    names: tuple[str, ...]
    digests: NDArray[np.uint8]
    labels: Labels
    features: NDArray[np.float16]
    history: tuple[Change, ...] = ()
    pack_id: str = ""
    before: str = ""

    @staticmethod
    def of(backbone: Backbone, names: tuple[str, ...], settings: AdaptSettings, parts: Sequence[Labelled]) -> State:
        """Of photos with features of as many views."""
        about = backbone.manifest.fingerprint, backbone.precision, backbone.feature_kind
        rows = rows_from([digest for part in parts for digest in part.features.digests])
        features = np.concatenate([part.features.values for part in parts]).astype(np.float16)
        return State(*about, settings, names, rows, np.concatenate([part.labels for part in parts]), features).arranged()

    @property
    def views(self) -> int:
        """V."""
        return int(self.features.shape[1])

    @property
    def counts(self) -> dict[str, int]:
        """Photos by class."""
        return dict(
            zip(self.names, np.bincount(self.labels[self.labels != OTHER], minlength=len(self.names)).tolist(), strict=True)
        )

    @property
    def photos(self) -> int:
        """Photos of the classes, in number."""
        return int((self.labels != OTHER).sum())

    @property
    def known(self) -> frozenset[bytes]:
        """Digests of the photos."""
        return frozenset(row.tobytes() for row in self.digests)

    def shots(self, by_hand: NDArray[np.float32], logit_scale: float) -> Shots:
        """What a closed form learns from; class features (C, D) of the hand-written prompt come with it."""
        features, mine = self.features.astype(np.float32), self.labels != OTHER
        return Shots(features[mine], self.labels[mine], by_hand, logit_scale, None if mine.all() else features[~mine, 0])

    def arranged(self) -> State:
        """With rows in their order."""
        keys = zip(self.labels.tolist(), map(bytes, self.features), map(bytes, self.digests), strict=True)
        order = np.array([row for _, row in sorted(zip(keys, range(len(self.labels)), strict=True))], np.int64)
        return replace(self, digests=self.digests[order], labels=self.labels[order], features=self.features[order])

    def without(self, rows: NDArray[np.bool_]) -> State:
        """Without some of the photos (N,), and without classes that have none left."""
        kept = ~rows
        labels = self.labels[kept]
        left = np.unique(labels[labels != OTHER])
        names = tuple(self.names[i] for i in left)
        placed = np.where(labels == OTHER, OTHER, np.searchsorted(left, labels))
        return replace(self, names=names, digests=self.digests[kept], labels=placed, features=self.features[kept])

    def named(self, names: tuple[str, ...]) -> State:
        """With classes in another order, or more of them; each that is there must be among `names`."""
        place = np.array([*(names.index(name) for name in self.names), OTHER], np.int64)  # the last is that of label -1
        return replace(self, names=names, labels=place[self.labels]).arranged()

    def rows_of(self, digests: set[bytes]) -> NDArray[np.bool_]:
        """Which rows (N,) have one of the digests."""
        return np.array([row.tobytes() in digests for row in self.digests], bool)

    def encode(self) -> bytes:
        """The bytes of its file."""
        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ARRAYS}
        told = {**facts, "settings": asdict(self.settings), "history": [asdict(each) for each in self.history], "format": FORMAT}
        head = np.frombuffer(json.dumps(told).encode(), np.uint8)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        return save({**arrays, "facts": head})

    @staticmethod
    def decode(data: bytes, most: int = MAX_STATE_BYTES, *, what: str = "the state", advice: str = AGAIN) -> State:
        """Back from `encode`; nothing is believed before it is checked.

        Args:
            data: from anywhere.
            most: bytes that it may have, and a quarter of them for what is no array.
            what, advice: what an error calls it, and what it says to do.

        Raises:
            StateError: it is too large, damaged, or of a newer version.
        """
        try:
            if len(data) > most:
                raise ValueError(f"it has {len(data)} bytes, more than {most}")
            arrays = load(data)
            if (head := arrays.pop("facts")).nbytes > most // FACTS_SHARE:  # JSON takes twenty times as much in memory
                raise ValueError(f"it says {head.nbytes} bytes beside its features, more than {most // FACTS_SHARE}")
            facts = json.loads(head.tobytes())
            if facts.pop("format") != FORMAT:
                raise StateError(f"{what} is of another version of edge-qprompt: {advice}")
            made = _restored(facts, arrays)
            check(made)
        except BAD as error:
            raise StateError(f"{what} is damaged ({error}): {advice}") from error
        return made

    def save(self, pack: Path) -> None:
        """Write it beside a pack.

        Raises:
            OSError: as `files.write_whole`.
        """
        write_whole(state_path(pack), self.encode())

    @staticmethod
    def beside(pack: Path) -> State | None:
        """The one beside a pack, or None where there is none.

        Raises:
            StateError: the file is damaged, or of a newer version.
        """
        path = state_path(pack)
        if not path.exists():
            return None
        advice = f"delete it, and {AGAIN}"
        try:
            if path.stat().st_size > MAX_STATE_BYTES:
                raise ValueError("it is too large")
            data = path.read_bytes()
        except (ValueError, OSError) as error:
            raise StateError(f"the state {path} is damaged ({error}): {advice}") from error
        return State.decode(data, what=f"the state {path}", advice=advice)


def rows_from(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    """Digests as rows (N, 32)."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), DIGEST_BYTES)


ARRAYS = ("features", "digests", "labels")


def _restored(facts: dict[str, Any], arrays: dict[str, Any]) -> State:
    history = tuple(
        Change(
            tuple(each["names"]),
            tuple((digest, tuple(labels)) for digest, labels in each["photos"]),
            each["renamed"] and tuple(each["renamed"]),
        )
        for each in facts.pop("history")
    )
    settings, names = restored(facts.pop("settings")), tuple(facts.pop("names"))
    return State(settings=settings, names=names, history=history, **{**facts, **arrays})


def state_path(pack: Path) -> Path:
    """Where a pack's state lies."""
    return pack.with_name(pack.name + SUFFIX)


def in_order(names: tuple[str, ...], like: tuple[str, ...]) -> tuple[str, ...]:
    """Names in natural order, as folders have them, if those of `like` are in it; else as they are."""
    return tuple(sorted(names, key=natural)) if list(like) == sorted(like, key=natural) else names


def with_class(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Names and one more, where `adapt` would have it: in natural order, or last where they have an order of their own."""
    return names if name in names else in_order((*names, name), names)


def label_of(text: str, known: Sequence[str] = ()) -> str:
    """A label as a folder of that name would be called; one of the known names as it is ("t-shirt").

    Raises:
        StateError: nothing is left of it.
    """
    if text in known:
        return text
    if not (name := readable(text)):
        raise StateError(f"the label {text!r} has no letter: give the class a name")
    return name
