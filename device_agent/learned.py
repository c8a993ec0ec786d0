"""A pack on disk and its state beside it, for verbs that change what was learned: nothing half-done, one at a time."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_agent import terminal
from edge_qprompt.errors import StateError
from edge_qprompt.files import locked

if TYPE_CHECKING:
    from edge_qprompt.backbone import Backbone
    from edge_qprompt.learn import Relearned, State
    from edge_qprompt.pack import Pack

Change = Callable[["Backbone", "State"], "Relearned"]


def state_of(path: Path, pack: Pack) -> State | None:
    """What a pack was learned from; None where that is not known.

    Raises:
        StateError: the file beside it is damaged, or of another pack.
    """
    from edge_qprompt.learn import State, state_path

    state = State.beside(path)
    # one that is of the pack's successor was written when its pack could not be: `change` finishes that
    if state is not None and pack.pack_id not in (state.pack_id, state.before):
        raise StateError(
            f"{state_path(path)} is of another pack than {path}, which somebody has replaced: learn it again with "
            "`edge-qprompt adapt`, or delete the state"
        )
    return state


def known_to(path: Path, pack: Pack) -> frozenset[bytes] | None:
    """Digests of the photos that a pack was learned from; None where they are not known, for what reason ever."""
    from edge_qprompt.pack import ZERO_SHOT

    if pack.method == ZERO_SHOT:  # which learns nothing
        return frozenset()
    try:
        state = state_of(path, pack)
    except StateError as error:
        terminal.warn(str(error))
        return None
    if state is not None and state.pack_id != pack.pack_id:
        terminal.warn(f"a change of {path} was interrupted: `teach` or `forget` finishes it")
        return None
    return None if state is None else state.known


def change(path: Path, backbone: str, providers: str, make: Change) -> tuple[Relearned, Backbone]:
    """Change a pack and its state, while nobody else does.

    Args:
        path: of the pack.
        backbone, providers: as the options have them; the precision is the state's.
        make: of a backbone and a state, what takes their place.

    Raises:
        StateError: there is no state, or what `make` raises.
    """
    from edge_qprompt.learn import remade, state_path
    from edge_qprompt.pack import Pack

    Pack.open(path)  # whether it is there at all
    with locked(path.parent):
        opened = Pack.open(path)
        state = state_of(path, opened)
        if state is None:
            raise StateError(
                f"there is no {state_path(path).name} beside {path}, so nobody knows what it was learned from: "
                "learn it with `edge-qprompt adapt`, which writes one"
            )
        model = terminal.open_backbone(backbone, state.precision, providers)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            left.unlink(missing_ok=True)  # of a process that was killed: it may hold features
        if opened.pack_id != state.pack_id:
            remade(model, state).pack.save(path)
            state = _settled(path, state)
            terminal.warn("a change that was interrupted is finished now; if it is the one asked for, no other is needed")
        result = make(model, state)
        result.state.save(path)  # which names the pack that it takes the place of, so that this can be finished
        result.pack.save(path)
        _settled(path, result.state)
    return result, model


def _settled(path: Path, state: State) -> State:
    """A state whose pack lies beside it: an older pack that is put there is then no interrupted change."""
    settled = replace(state, before="")
    settled.save(path)
    return settled


def facts(path: Path, result: Relearned, model: Backbone) -> dict[str, Any]:
    """What is told of a change."""
    from edge_qprompt.classify import Classifier

    seen, state = result.expected, result.state
    others = state.features[state.labels < 0, 0].astype("float32")
    unknown = int((~Classifier(model, result.pack).knows(others)).sum()) if len(others) else 0
    return {
        "pack": str(path),
        "bytes": result.pack.size,
        "classes": len(result.state.names),
        "method": result.method,
        "backbone": model.manifest.name,
        "precision": model.precision,
        "images_used": result.state.photos,
        "per_class": result.state.counts,
        "others": len(others),
        "others_unknown": unknown,
        "expected_accuracy": seen.accuracy if seen else None,
        "expected_margin": seen.margin if seen else None,
        "notes": list(result.notes),
        "can_undo": len(result.state.history),
    }


def lines(r: dict[str, Any]) -> list[str]:
    """The same for people."""
    expected = "not known: no class has a second photo"
    if r["expected_accuracy"] is not None:
        expected = f"expected on new photos: {terminal.percent(r['expected_accuracy'])}, +- {100 * r['expected_margin']:.1f}"
    return [
        f"{r['pack']}  {r['bytes']} bytes, {r['classes']} classes, {r['method']} on {r['backbone']} {r['precision']}",
        f"accuracy   {expected}",
        f"learned    from {r['images_used']} photos" + _others(r),
    ]


def _others(r: dict[str, Any]) -> str:
    return f"; of {r['others']} that show none of the classes {r['others_unknown']} are called unknown" if r["others"] else ""
