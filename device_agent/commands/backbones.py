"""`edge-qprompt backbones`: which frozen models there are."""

from __future__ import annotations

from typing import Any

import click

from device_agent import terminal


@click.command("backbones", short_help="List the frozen models on this machine.")
@click.option("--verify", is_flag=True, help="Check every file against its SHA-256.")
@terminal.json_option
def command(verify: bool, as_json: bool) -> None:
    """List the embedded backbone and those that `edge-qprompt export` has put in their place.

    \b
      edge-qprompt backbones
      edge-qprompt backbones --verify --json
    """
    from edge_qprompt.backbone import Backbone, Manifest, list_backbones
    from edge_qprompt.errors import BackboneError

    rows: list[dict[str, Any]] = []
    for folder in list_backbones():
        try:
            manifest = Manifest.read(folder)
        except BackboneError as error:
            if verify:
                raise
            terminal.warn(str(error))  # one damaged export must not hide the others
            continue
        if verify:
            Backbone(folder, manifest, next(iter(manifest.precisions))).verify()
        rows.append(
            {
                "name": folder.name,
                "folder": str(folder),
                "fingerprint": manifest.fingerprint,
                "source": manifest.source,
                "licence": manifest.licence,
                "bytes": sum(record.bytes for record in manifest.files.values()),
                "embed_dim": manifest.embed_dim,
                "width": manifest.text.width,
                "context_length": manifest.text.context_length,
                "precisions": list(manifest.precisions),
                "verified": verify,
            }
        )
    terminal.emit({"backbones": rows}, as_json, _lines)


def _lines(r: dict[str, Any]) -> list[str]:
    return [
        f"{row['name']}  {row['bytes'] / 1e6:.1f} MB, {'/'.join(row['precisions'])}, width {row['width']}, "
        f"{row['embed_dim']} dimensions, {row['fingerprint'][:16]}{', verified' if row['verified'] else ''}\n  {row['folder']}"
        for row in r["backbones"]
    ]
