"""Names in paths and queries."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from edge_qprompt import statement

NAME = f"^{statement.NAME.pattern}$"
SHA256 = f"^{statement.PACK_ID.pattern}$"

TaskName = Annotated[str, Path(pattern=NAME, description="Lower-case letters, digits, . _ -", examples=["flowers"])]
ChannelName = Annotated[str, Path(pattern=NAME, examples=["stable"])]
PackId = Annotated[str, Path(pattern=SHA256, description="Hex SHA-256 of the pack's bytes.")]
TaskNames = Annotated[list[Annotated[str, Query(pattern=NAME)]] | None, Query(examples=[["flowers", "birds"]])]
