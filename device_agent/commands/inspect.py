"""`edge-qprompt inspect`: what a pack holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from device_agent import terminal

PARAMETER_BYTES = 2  # the papers count float16


@click.command("inspect", short_help="Show what a pack holds.")
@click.argument("pack", type=click.Path(path_type=Path))
@terminal.json_option
def command(pack: Path, as_json: bool) -> None:
    """Sizes, codebook, class names and origin of PACK. Needs no backbone.

    `paper` is the size as the Quantized Prompt paper counts it, b N + 16 K bits; `payload` the same in
    whole bytes on disk; `overhead` head, records and checksum; `names` the class names. `threshold` is the familiarity
    below which `classify` calls a photo unknown, where the pack can tell.

    \b
      edge-qprompt inspect flowers.qpk
    """
    from edge_qprompt.pack import Pack

    terminal.emit(describe(Pack.open(pack), str(pack)), as_json, _lines)


def describe(pack: Any, path: str) -> dict[str, Any]:
    """The report as plain data."""
    from edge_qprompt.learn import METHODS
    from edge_qprompt.pack import CLASS_NAMES, DECISION, PROVENANCE, ROLES, Precision, Role, beside

    names = sum(section.size for section in pack.sections if section.tag == CLASS_NAMES.tag)
    payload = sum(tensor.payload_bytes for tensor in pack.tensors)
    total = len(pack.encode())
    sections = sum(section.size for section in pack.sections) - names
    decision = pack.get(DECISION)
    here = None if pack.shared_adapter is None else beside(Path(path), pack.shared_adapter)
    return {
        "pack": path,
        "pack_id": pack.pack_id,
        "bytes": total,
        "paper_bits": sum(tensor.paper_bits for tensor in pack.tensors),
        "payload_bytes": payload,
        "names_bytes": names,
        "section_bytes": sections,
        "overhead_bytes": total - payload - names - sections,
        "method": METHODS.name(pack.method) or f"unknown ({pack.method})",
        "precision": _name(Precision, pack.precision),
        "backbone_fingerprint": pack.fingerprint.hex(),
        "tensors": [
            {
                "role": _name(Role, tensor.role),
                "bits": tensor.bits,
                "shape": list(tensor.shape),
                "float16_bytes": PARAMETER_BYTES * tensor.data.size,
                "codebook": [float(value) for value in tensor.codebook],
            }
            for tensor in pack.tensors
        ],
        "adapter_bytes": sum(tensor.size for tensor in pack.tensors if tensor.role in ROLES),
        "shared_adapter": pack.shared_adapter,
        "shared_adapter_bytes": here.stat().st_size if here and here.exists() else None,
        "class_names": None if pack.class_names is None else list(pack.class_names),
        "template": pack.template,
        "templates": list(pack.templates),
        "threshold": None if decision is None else decision.unknown,
        "provenance": pack.get(PROVENANCE),
    }


def _name(kind: Any, number: int) -> str:
    known: dict[int, str] = {member.value: member.name.lower().replace("_", "-") for member in kind}
    return known.get(number, f"unknown ({number})")


def _lines(r: dict[str, Any]) -> list[str]:
    lines = [
        f"{r['pack']}  {r['bytes']} bytes, {r['method']} learned from {r['precision']} features",
        f"id         {r['pack_id']}",
        f"backbone   {r['backbone_fingerprint']}",
        f"size       paper {r['paper_bits'] / 8:g} bytes, payload {r['payload_bytes']}, overhead {r['overhead_bytes']}, "
        f"names {r['names_bytes']}, other sections {r['section_bytes']}",
    ]
    for tensor in r["tensors"]:
        shape = " x ".join(str(n) for n in tensor["shape"])
        lines.append(f"{tensor['role']:<10} {shape} with b = {tensor['bits']} ({tensor['float16_bytes']} bytes as float16)")
        if tensor["codebook"]:
            shown = ", ".join(f"{value:+.5f}" for value in tensor["codebook"][:16])
            lines.append(f"codebook   {shown}{' ...' if len(tensor['codebook']) > 16 else ''}")
    if r["adapter_bytes"]:
        lines.append(f"adapter    {r['adapter_bytes']} bytes of this pack (`edge-qprompt split` lets others share it)")
    if r["shared_adapter"]:
        size = (
            "not beside this pack" if r["shared_adapter_bytes"] is None else f"{r['shared_adapter_bytes']} bytes beside this pack"
        )
        lines.append(f"adapter    {r['shared_adapter']}, {size}")
    lines += [f"template   {template}" for template in r["templates"]]
    names = r["class_names"]
    lines.append(f"classes    {'not in the pack' if names is None else f'{len(names)}: ' + ', '.join(names)}")
    if r["threshold"] is not None:
        lines.append(f"threshold  familiarity {r['threshold']:.3f}: a photo below it shows none of the classes")
    lines.append(f"provenance {r['provenance'] or 'none recorded (adapt --provenance)'}")
    return lines
