"""Every error that this project raises on purpose, as one tree.

    EdgeQPromptError
    ├── PackError              bytes that are not a pack, or a pack that cannot be used so
    ├── BackboneError          a backbone folder that is missing, damaged or of another kind
    │   └── FingerprintError   a pack learned on another backbone
    ├── DataError              a folder or CSV of photos that cannot be learned from
    │   └── PhotoError         one photo that cannot be read; callers count and skip it
    │       └── CostError      one that takes more memory or time to decode than a photo of its size may
    ├── PromptError            class names that do not fit the context, unknown methods
    ├── CheckpointError        an interrupted run that cannot be resumed
    ├── StateError             what a pack was learned from is not there, damaged, or cannot be changed so
    ├── StoreError             a server's database that cannot be opened or used so
    │   ├── NotFoundError      no such task, version, channel, pack or token
    │   └── ConflictError      somebody else was faster
    ├── ListenError            an address or a path that a server cannot listen on
    ├── ExportError            a model that cannot be exported, or failed its parity gate
    ├── SignatureError         a key that cannot be used, or a channel statement that is not to be believed
    ├── ServerError            a server that is away, or answered something else than asked for
    └── MissingExtraError      a package that one of the extras brings

Each message says what, where, got and wanted, and what to do.
"""

from __future__ import annotations

import importlib.metadata
import re


class EdgeQPromptError(Exception):
    """Root of the tree; the command line prints it as one line and exits with 1."""


class PackError(EdgeQPromptError):
    """The bytes are not a valid pack, or the pack cannot be used as asked."""


class BackboneError(EdgeQPromptError):
    """The backbone folder is missing, damaged, or of a kind this version cannot run."""


class FingerprintError(BackboneError):
    """The pack was learned on another backbone."""


class DataError(EdgeQPromptError):
    """The data set cannot be used."""


class PhotoError(DataError):
    """One photo cannot be read."""


class CostError(PhotoError):
    """Decoding one photo takes more than it may.

    Args:
        message: what, and what to do.
        reason: one word of `decoder.REASONS`, for those who count.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class PromptError(EdgeQPromptError):
    """A class name or a prompt setting that the text tower cannot take."""


class CheckpointError(EdgeQPromptError):
    """The checkpoint beside the pack belongs to another run, or is damaged."""


class StateError(EdgeQPromptError):
    """What a pack was learned from is not known, is damaged, or cannot be changed as asked."""


class StoreError(EdgeQPromptError):
    """The server's database cannot be opened, or holds something else than asked for."""


class NotFoundError(StoreError):
    """The server's database has nothing under this name."""


class ConflictError(StoreError):
    """What the request was made from is no longer so."""


class ListenError(EdgeQPromptError):
    """The server cannot listen where it should."""


class ExportError(EdgeQPromptError):
    """The model cannot be exported, or the exported one is not the same model."""


class SignatureError(EdgeQPromptError):
    """The key cannot be used, or the channel statement is damaged, of another signer, old, or about something else."""


class ServerError(EdgeQPromptError):
    """The server is away, or answered something else than asked for.

    Args:
        message: what, where, and what to do.
        status: of HTTP, if there was an answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class MissingExtraError(EdgeQPromptError):
    """An optional package is needed for this and is not installed.

    Args:
        module: that cannot be imported, or one of its submodules.
        all_of: the extra that brings all that is needed here; otherwise the one that brings the module is named.
    """

    def __init__(self, module: str, all_of: str | None = None) -> None:
        package, extra = extra_of(module) or (module, "all")
        super().__init__(f"this needs {package}, which is not installed: pip install 'edge-qprompt[{all_of or extra}]'")


PACKAGES = {
    "open_clip": "open_clip_torch",
    "multipart": "python-multipart",
    "sklearn": "scikit-learn",
}  # of modules that are not called like them


def extra_of(module: str | None) -> tuple[str, str] | None:
    """The package of a module, and the first extra that brings it by this project's own metadata; None for any other module."""
    top = (module or "").partition(".")[0]
    package = PACKAGES.get(top, top.replace("_", "-"))
    try:
        requirements = importlib.metadata.requires("edge-qprompt") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder that nobody has installed
        return None
    for requirement in requirements:
        extra = re.search(r"extra == ['\"]([\w-]+)", requirement)
        if extra and re.match(r"[\w.-]+", requirement)[0] == package:  # type: ignore[index]
            return package, extra[1]
    return None
