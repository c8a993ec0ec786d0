"""Where channels point, asked of the database only after somebody wrote to it."""

from __future__ import annotations

from collections.abc import Sequence

from server.catalogue import Catalogue, Target
from server.lru import Lru

KNOWN_BYTES = 4 << 20
TARGET_BYTES = 512  # about: three texts and the name in the question

Question = tuple[str, tuple[str, ...] | None]  # a channel, and the tasks wanted


class Targets:
    """Which packs the channels point at, remembered as long as nothing changes; belongs to one event loop.

    Args:
        catalogue: of the tasks.
        backbone: short fingerprint that their packs must have.
    """

    def __init__(self, catalogue: Catalogue, backbone: str) -> None:
        self._catalogue, self._backbone = catalogue, backbone
        self._known: Lru[Question, tuple[int, list[Target]]] = Lru(KNOWN_BYTES)

    async def find(self, channel: str, wanted: Sequence[str] | None) -> list[Target]:
        """As `Catalogue.targets`; what this or another process has committed before is always seen."""
        question = (channel, None if wanted is None else tuple(wanted))
        version = self._catalogue.database.version()  # before it is asked: what is written meanwhile makes the answer old
        if version is not None and (known := self._known.get(question)) is not None and known[0] == version:
            return known[1]
        found = await self._catalogue.database.run(self._catalogue.targets, channel, self._backbone, wanted)
        if version is not None:
            self._known.put(question, (version, found), TARGET_BYTES * (1 + len(found)))
        return found
