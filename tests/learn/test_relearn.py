"""Teach, forget, rename, undo: always the pack that `adapt` would give for the photos as they are then."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from common import DEMO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_qprompt import AdaptSettings, Backbone, State, adapt, forget, rename, teach, undo
from edge_qprompt.errors import StateError
from edge_qprompt.photos import load_dataset

MANY = 100  # photos a class that `adapt` may learn from
DATA = load_dataset(DEMO)
FILES = DATA.train.paths
NAMES = ("shirt", "ankle boot", "10 bags", "2 bags", "coat")


def learned(nano: Backbone, pairs: Sequence[tuple[Path, str]], **more: object) -> tuple[bytes, State]:
    result = adapt(nano, list(pairs), AdaptSettings(shots=MANY, **more))  # type: ignore[arg-type]
    return result.pack.encode(), result.state


def same(one: State, other: State) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("features", "digests", "labels"))
    return arrays and one.names == other.names and one.pack_id == other.pack_id


START = [(FILES[16 * label + i], name) for label, name in enumerate(NAMES[:3]) for i in range(4)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("teach"), st.lists(st.tuples(st.integers(0, 79), st.sampled_from(NAMES)), min_size=1, max_size=3)),
        st.tuples(st.just("forget"), st.integers(0, 1000)),
        st.tuples(st.just("forget label"), st.sampled_from(NAMES)),
        st.tuples(st.just("rename"), st.tuples(st.sampled_from(NAMES), st.sampled_from((*NAMES, "bag", "zebra")))),
        st.tuples(st.just("undo"), st.none()),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, method=st.sampled_from(["auto", "qgda", "qres", "zero-shot"]), seed=st.integers(0, 99))
def test_every_sequence_of_changes_gives_what_adapt_gives(nano: Backbone, steps: list, method: str, seed: int) -> None:
    have = dict(START)
    _, state = learned(nano, START, method=method)
    pasts = []  # what was there before each change that can be undone
    for step, told in steps:
        before = dict(have)
        result = None
        if step == "teach":
            pairs = list({FILES[i]: name for i, name in told}.items())
            result = teach(nano, state, pairs)
            have |= dict(pairs)
            pasts += [before] if have != before else []
        elif step == "forget":
            gone = list(have)[told % len(have)]
            left = {photo: name for photo, name in have.items() if photo != gone}
            if len(set(left.values())) < 2:
                with pytest.raises(StateError, match="a pack needs two"):
                    forget(nano, state, [gone])
                continue
            result, have, pasts = forget(nano, state, [gone]), left, []
        elif step == "forget label":
            left = {photo: name for photo, name in have.items() if name != told}
            if len(left) == len(have) or len(set(left.values())) < 2:
                with pytest.raises(StateError):
                    forget(nano, state, label=told)
                continue
            result, have, pasts = forget(nano, state, label=told), left, []
        elif step == "rename":
            old, new = told
            if old not in have.values() or new in have.values():
                with pytest.raises(StateError):
                    rename(nano, state, old, new)
                continue
            result = rename(nano, state, old, new)
            have = {photo: new if name == old else name for photo, name in have.items()}
            pasts.append(before)
        elif not pasts:
            with pytest.raises(StateError, match="nothing to undo"):
                undo(nano, state)
            continue
        else:
            result, have = undo(nano, state), pasts.pop()
        pairs = list(have.items())
        random.Random(seed).shuffle(pairs)
        wanted, fresh = learned(nano, pairs, method=method)
        assert result.pack.encode() == wanted, (step, told)
        assert same(result.state, fresh)
        assert len(result.state.history) == len(pasts)
        state = result.state
