"""An adapter that packs share: held in one pack, named by others by that pack's SHA-256.

An adapter takes a hundred times the bytes of a prompt. Tasks that were learned with the same one refer to it instead of
bringing it along, and whoever runs them puts both together again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edge_qprompt.errors import FingerprintError, PackError
from edge_qprompt.pack.pack import Pack, Role
from edge_qprompt.pack.section import SHARED_ADAPTER

ROLES = (Role.ADAPTER_IN, Role.ADAPTER_OUT)


@dataclass(frozen=True)
class Split:
    """Two packs that are one: `joined(prompt, adapter)` classifies as the pack did that was split.

    Attributes:
        prompt: refers to the adapter.
        adapter: holds nothing else.
    """

    prompt: Pack
    adapter: Pack


def is_adapter(pack: Pack) -> bool:
    """Whether a pack holds an adapter and nothing to classify with."""
    return sorted(tensor.role for tensor in pack.tensors) == sorted(ROLES) and not pack.sections


def split(pack: Pack) -> Split:
    """Part a pack from its adapter.

    Raises:
        PackError: it has none.
    """
    tensors = tuple(tensor for tensor in pack.tensors if tensor.role in ROLES)
    if {tensor.role for tensor in tensors} != set(ROLES):
        raise PackError("the pack holds no adapter that could be split off: only clip-adapter and p4q learn one")
    adapter = replace(pack, tensors=tensors, sections=())
    rest = tuple(tensor for tensor in pack.tensors if tensor.role not in ROLES)
    reference = SHARED_ADAPTER.section(adapter.pack_id)
    return Split(replace(pack, tensors=rest, sections=(reference, *pack.sections)), adapter)


def joined(pack: Pack, adapter: Pack | None) -> Pack:
    """A pack with the adapter that it refers to; itself if it refers to none.

    Args:
        pack: of a task.
        adapter: a pack that holds an adapter, and may hold more; None if there is none at hand.

    Raises:
        PackError: the adapter is missing, or another than the one referred to; or the pack takes none.
        FingerprintError: the adapter belongs to another backbone.
    """
    wanted = pack.shared_adapter
    if wanted is None:
        if adapter is not None:
            raise PackError("the pack refers to no adapter: leave --adapter out")
        return pack
    if adapter is None:
        raise PackError(f"the pack needs the adapter {wanted}: give the pack that holds it (--adapter)")
    if adapter.pack_id != wanted:
        raise PackError(f"the pack needs the adapter {wanted}, got {adapter.pack_id}: give the pack of that SHA-256 (--adapter)")
    if adapter.fingerprint != pack.fingerprint:
        fingerprints = f"{adapter.fingerprint.hex()}, the pack of {pack.fingerprint.hex()}"
        raise FingerprintError(f"the adapter {wanted} is of backbone {fingerprints}: learn the pack again")
    found = [adapter.tensor(role) for role in ROLES]
    if None in found or any(pack.tensor(role) for role in ROLES):
        why = "which holds none" if None in found else "and brings another along"
        raise PackError(f"the pack refers to the adapter in {wanted}, {why}: learn it again")
    sections = tuple(section for section in pack.sections if section.tag != SHARED_ADAPTER.tag)
    return replace(pack, tensors=(*pack.tensors, *(tensor for tensor in found if tensor)), sections=sections)


def beside(path: Path, pack_id: str) -> Path:
    """Where an adapter lies that belongs to a pack's file: in its folder, so that the packs there share it."""
    return path.with_name(f"{pack_id[:16]}.adapter")
