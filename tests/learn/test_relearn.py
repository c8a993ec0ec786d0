"""Teach, forget, rename, undo: always the pack that `adapt` would give for the photos as they are then."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import CACHE, DEMO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from edge_qprompt import AdaptSettings, Backbone, State, adapt, evaluate, forget, rename, teach, undo
from edge_qprompt.errors import DataError, FingerprintError, PhotoError, StateError
from edge_qprompt.learn import LoopSettings, MethodSettings, Relearned, state_path
from edge_qprompt.pack import DECISION
from edge_qprompt.photos import load_dataset

Photos = dict[Path, str | None]
MANY = 100  # photos a class that `adapt` may learn from
DATA = load_dataset(DEMO)
FILES = DATA.train.paths
NAMES = ("shirt", "ankle boot", "10 bags", "2 bags", "coat")


def learned(nano: Backbone, pairs: Sequence[tuple[Path, str | None]], method: str = "auto") -> tuple[bytes, State]:
    mine = [(photo, label) for photo, label in pairs if label is not None]
    others = [photo for photo, label in pairs if label is None]
    result = adapt(nano, mine, AdaptSettings(shots=MANY, method=method), others=others)
    return result.pack.encode(), result.state


def same(one: State, other: State) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("features", "digests", "labels"))
    return arrays and one.names == other.names and one.pack_id == other.pack_id


START = [(FILES[16 * label + i], name) for label, name in enumerate(NAMES[:3]) for i in range(4)]
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("teach"), st.lists(st.tuples(st.integers(0, 79), st.sampled_from((*NAMES, None))), min_size=1, max_size=3)
        ),
        st.tuples(st.just("forget"), st.integers(0, 1000)),
        st.tuples(st.just("forget label"), st.sampled_from(NAMES)),
        st.tuples(st.just("rename"), st.tuples(st.sampled_from(NAMES), st.sampled_from((*NAMES, "bag", "zebra")))),
        st.tuples(st.just("undo"), st.none()),
    ),
    min_size=1,
    max_size=5,
)


def wanted(have: Photos, pasts: list[Photos], step: str, told: Any) -> Photos | None:
    """Photos with their labels after a step; None where it is refused."""
    new: Photos | None
    if step == "teach":
        new = have | {FILES[i]: name for i, name in told}
    elif step == "forget":
        gone = list(have)[told % len(have)]
        new = {photo: name for photo, name in have.items() if photo != gone}
    elif step == "forget label":
        new = {photo: name for photo, name in have.items() if name != told} if told in have.values() else None
    elif step == "rename":
        old, name = told
        fits = old in have.values() and name not in have.values()
        new = {photo: name if label == old else label for photo, label in have.items()} if fits else None
    else:
        new = pasts[-1] if pasts else None
    return new if new and len(set(new.values()) - {None}) > 1 else None


def changed(nano: Backbone, state: State, have: Photos, step: str, told: Any) -> Relearned:
    if step == "teach":
        return teach(nano, state, list({FILES[i]: name for i, name in told}.items()))
    if step == "forget":
        return forget(nano, state, [list(have)[told % len(have)]])
    if step == "forget label":
        return forget(nano, state, label=told)
    return rename(nano, state, *told) if step == "rename" else undo(nano, state)


@pytest.mark.timeout(400)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, method=st.sampled_from(["auto", "qgda", "qres", "zero-shot"]), seed=st.integers(0, 99))
def test_every_sequence_of_changes_gives_what_adapt_gives(nano: Backbone, steps: list, method: str, seed: int) -> None:
    have: Photos = dict(START)
    _, state = learned(nano, START, method)
    pasts: list[Photos] = []  # what was there before each change that can be undone
    for step, told in steps:
        new = wanted(have, pasts, step, told)
        if new is None:
            with pytest.raises(StateError):
                changed(nano, state, have, step, told)
            continue
        result = changed(nano, state, have, step, told)
        if step == "undo":
            pasts.pop()
        elif step.startswith("forget"):
            pasts = []
        elif new != have:
            pasts.append(have)
        pairs = list(new.items())
        random.Random(seed).shuffle(pairs)
        pack, fresh = learned(nano, pairs, method)
        assert result.pack.encode() == pack, (step, told)
        assert same(result.state, fresh)
        assert len(result.state.history) == len(pasts)
        have, state = new, result.state


def test_a_photo_forgotten_is_nowhere(nano: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    photo = START[0][0]
    digest = hashlib.sha256(photo.read_bytes()).digest()
    result = adapt(nano, START)
    feature = result.state.features[result.state.rows_of({digest})]
    pack = tmp_path / "a.qpk"

    def traces() -> list[str]:
        stored = [feature.astype(np.float32)[:, :, :8].tobytes(), feature.tobytes(), digest, digest.hex().encode()]
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        return [file.name for file in files if any(each in file.read_bytes() for each in stored)]

    result.state.save(pack)
    result.pack.save(pack)
    assert state_path(pack).name in traces()
    assert len(list((tmp_path / "cache").rglob("*.sqlite"))) == 1
    taught = teach(nano, result.state, [(photo, "coat")])  # which history then tells of
    after = forget(nano, taught.state, [photo])
    after.state.save(pack)
    after.pack.save(pack)
    assert traces() == []
    assert not after.state.history


def test_all_views_of_a_photo_are_forgotten_whatever_they_were_for(
    nano: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    for views, seed in ((3, 1), (2, 2)):
        state = adapt(nano, START, AdaptSettings(views=views, loop=LoopSettings(seed=seed))).state
    (cache,) = (tmp_path / "cache").rglob("*.sqlite")

    def rows() -> int:
        with closing(sqlite3.connect(cache)) as db:
            return int(db.execute("SELECT count(*) FROM features").fetchone()[0])

    before = rows()
    forget(nano, state, [START[0][0]])
    assert (before, before - rows()) == (len(START) * 4, 4)  # the centre, two crops of one seed, and one of the other


def test_a_state_is_read_back_as_it_was_written(nano: Backbone, tmp_path: Path) -> None:
    options = AdaptSettings(budget=2000, method_settings=MethodSettings(templates=("a {}.", "one {}.")), provenance=True)
    state = adapt(nano, START, options, others=[FILES[-1]]).state
    state = rename(nano, teach(nano, state, [(FILES[60], "coat"), (FILES[0], "coat")]).state, "coat", "long coat").state
    state.save(tmp_path / "a.qpk")
    read = State.beside(tmp_path / "a.qpk")
    assert read
    assert same(read, state)
    assert (read.settings, read.history, read.encoder) == (state.settings, state.history, state.encoder)
    assert undo(nano, read).pack == undo(nano, state).pack
    assert State.beside(tmp_path / "b.qpk") is None


def test_a_damaged_state_is_named(nano: Backbone, tmp_path: Path) -> None:
    pack = tmp_path / "a.qpk"
    state = adapt(nano, START).state
    bad = [
        replace(state, labels=state.labels + 1),
        replace(state, features=state.features * 2),
        replace(state, features=state.features[:, 0]),
        replace(state, digests=state.digests[:, :31]),
        replace(state, digests=state.digests[:-1]),
        replace(state, names=state.names[:1]),
        replace(state, features=np.full_like(state.features, np.nan)),
    ]
    for each in bad:
        each.save(pack)
        with pytest.raises(StateError, match="damaged"):
            State.beside(pack)
    state.save(pack)
    whole = state_path(pack).read_bytes()
    for cut in (0, 7, 100, len(whole) - 1):
        state_path(pack).write_bytes(whole[:cut])
        with pytest.raises(StateError, match="damaged"):
            State.beside(pack)
    state_path(pack).write_bytes(whole.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(StateError, match="another version"):
        State.beside(pack)


def test_what_cannot_be_taught_is_said(nano: Backbone, tmp_path: Path) -> None:
    state = adapt(nano, START).state
    with pytest.raises(StateError, match="two labels, coat and shirt"):
        teach(nano, state, [(FILES[50], "coat"), (FILES[50].read_bytes(), "shirt")])
    with pytest.raises(StateError, match="no letter"):
        teach(nano, state, [(FILES[50], " _- ")])
    (tmp_path / "no.png").write_bytes(b"no photo")
    with pytest.raises(DataError, match=r"none of the 1 photos can be read.*no\.png"):
        teach(nano, state, [(tmp_path / "no.png", "coat")])
    with pytest.raises(PhotoError, match=r"no\.png"):
        teach(nano, state, [(FILES[50], "coat"), (tmp_path / "no.png", "coat")], strict=True)
    skipping = teach(nano, state, [(FILES[50], "coat"), (tmp_path / "no.png", "coat")])
    assert skipping.state.counts["coat"] == 1
    assert "no.png" in skipping.notes[0]
    with pytest.raises(StateError, match="there is no class 'hat', there are 10 bags"):
        forget(nano, state, label="hat")
    with pytest.raises(StateError, match="is none of the 12 photos"):
        forget(nano, state, [FILES[50]])
    with pytest.raises(FingerprintError, match="image encoder int8"):
        teach(nano, replace(state, encoder="int8", precision="int8"), [(FILES[50], "coat")])
    with pytest.raises(FingerprintError, match="another backbone"):
        undo(nano, replace(state, fingerprint="00"))
    prompt = adapt(nano, START, AdaptSettings(method="qcoop", loop=LoopSettings(epochs=1))).state
    with pytest.raises(StateError, match="step by step, by qcoop"):
        teach(nano, prompt, [(FILES[50], "coat")])
    notes = teach(nano, state, [(FILES[0], "shirt"), (FILES[1], "coat"), (FILES[2], None)]).notes
    assert [note.partition("png ")[2] for note in notes] == [
        "is learned as shirt already",
        "was learned as shirt, and is coat now",
        "was learned as shirt, and is none of the classes now",
        "",
        "still looks like one of the classes: to call it unknown, too many right answers would be lost",
    ]
    assert notes[-2] == "coat is a new class"
    gone = teach(nano, state, [(photo, "shirt") for photo, label in START if label == "10 bags"]).notes
    assert gone[-1] == "10 bags has no photo left, and is no class any more"


def test_classes_with_an_order_of_their_own_keep_it(nano: Backbone) -> None:
    pairs = [(photo, (2, 0, 1)[i // 4]) for i, (photo, _) in enumerate(START)]
    state = adapt(nano, pairs, names=("zebra", "ape", "bear")).state
    taught = teach(nano, state, [(FILES[60], "cat")])
    assert taught.state.names == ("zebra", "ape", "bear", "cat")
    assert rename(nano, taught.state, "zebra", "yak").state.names == ("yak", "ape", "bear", "cat")
    alone = teach(nano, taught.state, [(photo, "cat") for photo, label in pairs if label == 1])
    assert alone.state.names == ("zebra", "bear", "cat")
    back = undo(nano, alone.state)
    assert back.state.names == taught.state.names
    assert back.pack == taught.pack


@pytest.mark.parametrize("shots", [3, 6, 16])
def test_others_raise_the_threshold_and_never_lower_it(nano: Backbone, shots: int) -> None:
    base, foreign = load_dataset(DEMO).select("base"), load_dataset(DEMO).select("new")
    assert foreign.test
    settings = AdaptSettings(shots=shots)
    alone, told = adapt(nano, base, settings), adapt(nano, base, settings, others=foreign.train.paths)
    least = [each.pack.get(DECISION).unknown for each in (alone, told)]  # type: ignore[union-attr]
    assert least[0] < least[1] if shots == 3 else least[0] <= least[1]
    seen = [evaluate(nano, each.pack, base, others=foreign.test.paths).unknown for each in (alone, told)]
    assert seen[0]
    assert seen[1]
    assert seen[0].found <= seen[1].found
    assert told.state.photos == 5 * shots
    assert len(told.state.labels) == 5 * shots + len(foreign.train)


def test_others_that_say_nothing_are_named(nano: Backbone, tmp_path: Path) -> None:
    base = load_dataset(DEMO).select("base")
    told = adapt(nano, base, AdaptSettings(method="zero-shot"), others=DEMO / "train" / "sandal")
    assert "say nothing to the method zero-shot" in told.notes[0]
    (tmp_path / "a.png").write_text("no photo")
    with pytest.raises(DataError, match="none of the 1 photos of the others can be read"):
        adapt(nano, base, others=tmp_path)
    some = adapt(nano, base, others=[tmp_path / "a.png", DEMO / "train" / "sandal" / "0.png"])
    assert [path for path, _ in some.skipped] == [tmp_path / "a.png"]
    assert len(some.state.labels) == some.state.photos + 1


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"names": ["a", "a", "b"]}, "names"),
        ({"names": [1, 2, 3]}, "names"),
        ({"settings": {"method": "no such"}}, "no such"),
        ({"settings": {"n_ctx": None}}, "tokens"),
        ({"settings": {"n_ctx": "8"}}, "n_ctx is '8'"),
        ({"settings": {"views": 3}}, "views"),
        ({"settings": {"budget": [1]}}, "budget is"),
        ({"settings": {"more": 1}}, "more"),
        ({"settings": {"seconds": float("nan")}}, "seconds is nan"),
        ({"settings": {"engine": {"name": "x", "memory": 1}}}, "unknown engine"),
        ({"settings": {"method_settings": None}}, "damaged"),
        ({"history": [{"names": [], "photos": [["zz", []]], "renamed": None}]}, "hex"),
        ({"history": [{"names": [], "photos": [["00", []]], "renamed": None}]}, "digest"),
        ({"history": [{"names": [], "photos": [], "renamed": ["a"]}]}, "history"),
        ({"history": 7}, "damaged"),
        ({"fingerprint": None}, "names"),
    ],
)
def test_a_state_that_somebody_has_written_by_hand(nano: Backbone, tmp_path: Path, change: dict, wanted: str) -> None:
    pack = tmp_path / "a.qpk"
    adapt(nano, START).state.save(pack)
    arrays = load(state_path(pack).read_bytes())
    facts = json.loads(arrays["facts"].tobytes())
    settings = facts["settings"] | change.pop("settings", {})
    told = json.dumps(facts | {"settings": settings} | change).encode()
    state_path(pack).write_bytes(save({**arrays, "facts": np.frombuffer(told, np.uint8)}))
    with pytest.raises(StateError, match=f"damaged.*{wanted}" if wanted != "damaged" else wanted):
        State.beside(pack)
    deep = np.frombuffer(b"[" * 100_000, np.uint8)
    state_path(pack).write_bytes(save({**arrays, "facts": deep}))
    with pytest.raises(StateError, match="damaged"):
        State.beside(pack)
