"""What people see while something runs: bars, in a terminal or in a notebook."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


def in_notebook() -> bool:
    """Whether a notebook runs this."""
    return "ipykernel" in sys.modules


class Bars:
    """Bars, one a stage; a context manager, and a function to be called with a stage, done, total and a note.

    Args:
        shown: False shows nothing.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Move a stage's bar to `done` of `total`."""
        if not self._shown:
            return
        from tqdm.auto import tqdm  # a widget in a notebook that has them, else text on stderr

        if self._bar is None or stage != self._stage:
            self.__exit__(None, None, None)
            self._bar, self._stage = tqdm(total=total, desc=stage, file=sys.stderr, leave=False, dynamic_ncols=True), stage
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
