"""Learning on the server: a pack anew from a task's state and one photo more. On a thread of its own, one at a time.

What a publisher sends is bounded before it is learned from, since a thread cannot be ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from edge_qprompt.backbone import Backbone
from edge_qprompt.errors import StateError
from edge_qprompt.learn import Relearned, State, teach_encoded
from edge_qprompt.pack import Pack
from server.settings import Limits
from server.turns import Turns

UNDO = 16  # changes that are kept to be undone: each tells of labels that were
ELSEWHERE = "learn it where its photos are, and push it"
T = TypeVar("T")

Make = Callable[[Backbone, State], Relearned]


@dataclass(frozen=True)
class Learned:
    """What came of a change.

    Attributes:
        before: the state that was gone on from.
        result: the pack, and what it was learned from.
        data: that state, encoded.
    """

    before: State
    result: Relearned
    data: bytes

    @property
    def same(self) -> bool:
        """Whether nothing was changed."""
        return self.result.state.history == self.before.history

    def labels_before(self, digest: bytes) -> list[str | None]:
        """Labels that a photo had; None of them is none of the classes, no label at all a new photo."""
        state = self.before
        return [state.names[label] if label >= 0 else None for label in state.labels[state.rows_of({digest})].tolist()]

    @property
    def report(self) -> dict[str, Any]:
        """What the version says of itself: what to expect, never what was measured on photos apart."""
        seen, state = self.result.expected, self.result.state
        return {
            "method": self.result.method,
            "images_used": state.photos,
            "per_class": state.counts,
            "expected_accuracy": seen.accuracy if seen else None,
            "expected_margin": seen.margin if seen else None,
        }


@dataclass(frozen=True)
class Tried:
    """A state that came with a pack.

    Attributes:
        data: as it is kept: it tells of no change that it had before.
        lost: photos that were taught here and that it lacks, as far as is known.
    """

    data: bytes
    lost: int


class Teacher:
    """Learns packs anew, one at a time; belongs to one event loop.

    Args:
        backbone: of all packs.
        limits: of what is learned from.
    """

    def __init__(self, backbone: Backbone, limits: Limits) -> None:
        self._backbone, self._limits = backbone, limits
        self._turns = Turns(1)
        self._thread = ThreadPoolExecutor(1, "learn")

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait until nobody else of this process learns, and keep others from it."""
        async with self._turns.hold(client):
            yield

    async def tried(self, client: str, pack: Pack, data: bytes, old: bytes | None) -> Tried:
        """Make sure that a pack can be learned here from the state that came with it.

        Args:
            client: whose turn it takes.
            pack, data: what came.
            old: the state that the task has.

        Raises:
            StateError, FingerprintError, PromptError: it cannot be gone on from.
        """
        async with self._turns.hold(client):
            return await self._run(self._tried, pack, data, old)

    async def learn(self, data: bytes, make: Make) -> Learned:
        """Change a state that is kept; the turn is the caller's.

        Raises:
            StateError, FingerprintError, PromptError: as `make`, or it cannot be gone on from.
        """
        return await self._run(self._learn, data, make)

    def close(self) -> None:
        """End the thread; what is learned now is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def _tried(self, pack: Pack, data: bytes, old: bytes | None) -> Tried:
        state = self._opened(data)
        if (state.pack_id, state.names) != (pack.pack_id, pack.class_names):
            raise StateError(
                f"the state is of the pack {state.pack_id[:16]}, not {pack.pack_id[:16]}: send the one beside the pack"
            )
        try:
            teach_encoded(self._backbone, state, [])
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:  # of settings that nobody can have
            raise StateError(f"nothing can be learned from the state ({error}): {ELSEWHERE}") from error
        return Tried(replace(state, history=(), before="").encode(), 0 if old is None else len(_taught(old) - state.known))

    def _learn(self, data: bytes, make: Make) -> Learned:
        before = self._opened(data)
        result = make(self._backbone, before)
        result = replace(result, state=replace(result.state, history=result.state.history[-UNDO:]))
        self._check_size(result.state)
        encoded = result.state.encode()
        if len(encoded) > self._limits.state_bytes:
            raise StateError(f"the state would have {len(encoded)} bytes, more than {self._limits.state_bytes}: {ELSEWHERE}")
        return Learned(before, result, encoded)

    def _opened(self, data: bytes) -> State:
        """A state that can be learned from here."""
        state = State.decode(data, self._limits.state_bytes, advice=f"{ELSEWHERE} with its state")
        backbone = self._backbone
        if state.fingerprint != backbone.manifest.fingerprint:
            raise StateError(
                f"the pack was learned on another backbone than {backbone.manifest.name}, which runs here: {ELSEWHERE}"
            )
        if state.encoder != backbone.feature_kind:
            raise StateError(
                f"the pack was learned with the image encoder {state.encoder}, this server runs {backbone.feature_kind}: "
                f"teach it elsewhere, or learn it with --precision {backbone.precision}"
            )
        if state.views != 1:
            raise StateError(
                f"the pack was learned from {state.views} views of each photo, one is taken here: teach it elsewhere"
            )
        self._check_size(state)
        return state

    def _check_size(self, state: State) -> None:
        """Refuse what takes more than a few seconds."""
        limits, photos, prompts = self._limits, len(state.labels), len(state.settings.method_settings.templates)
        scores = photos * len(state.names) * max(1, prompts)
        if photos > limits.taught_photos or scores > limits.taught_scores:
            raise StateError(
                f"{photos} photos of {len(state.names)} classes with {prompts} templates take too long to learn here, "
                f"{limits.taught_photos} photos, and {limits.taught_scores} of the three multiplied, may be: {ELSEWHERE}"
            )


def _taught(data: bytes) -> frozenset[bytes]:
    """Digests of photos that a state was taught here, of the last UNDO of them."""
    state = State.decode(data)
    return frozenset(bytes.fromhex(digest) for change in state.history for digest, _ in change.photos) & state.known
