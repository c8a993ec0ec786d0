"""What docs/operate.md says of limits is what the server has."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from common import ROOT

from edge_qprompt.pack.layout import MAX_BYTES
from edge_qprompt.photos import decoder_process as decoder
from edge_qprompt.photos import photo
from server import protocol
from server.commands.serve import GRACE_SECONDS, command
from server.decoders import QUICK_SECONDS, QUICK_SECONDS_A_MEGAPIXEL
from server.settings import MB, Limits

OPERATE = (ROOT / "docs" / "operate.md").read_text()
TEXT = " ".join(OPERATE.split())
LIMITS = Limits()


def table() -> dict[str, tuple[str, str]]:
    """Default and option by the name of a limit; "of one client" comes twice, and is known by what it is of."""
    lines = OPERATE.split("## Limits\n")[1].split("## Photos")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    found: dict[str, tuple[str, str]] = {}
    last = ""
    for name, default, option, _ in rows[1:]:
        found[f"{last}, {name}" if name.startswith("of one") else name] = (default, option.strip("` "))
        last = name
    return found


def number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


DOCUMENTED = {
    "body of a request": f"{LIMITS.body_bytes // MB} MiB; a pack {MAX_BYTES // MB} MiB",
    "time for the whole body": f"{number(LIMITS.body_seconds)} s",
    "pieces of a body": number(protocol.MAX_PIECES),
    "all bodies together": f"{LIMITS.bodies_bytes // MB} MiB, or four of the largest",
    "all bodies together, of one client": f"{LIMITS.client_bodies_bytes // MB} MiB, or two of the largest",
    "head of a request": f"{protocol.MAX_HEAD_BYTES >> 10} KiB, {number(protocol.HEAD_SECONDS)} s",
    "answer that is not taken": f"{protocol.TAKE_BYTES // 1000} kB in {number(protocol.TAKE_SECONDS)} s; "
    f"{protocol.MAX_UNSENT_BYTES // MB} MiB together",
    "connections": number(LIMITS.connections),
    "connections, of one address, but for a trusted proxy's": number(LIMITS.connections // protocol.CLIENT_SHARE),
    "from the whole body to the answer": f"{number(LIMITS.answer_seconds)} s",
    "pixels of a photo": f"{LIMITS.pixels // 10**6} million",
    "time to decode one, waiting included": f"{number(LIMITS.decode_seconds)} s",
    "scans of a JPEG": number(photo.MAX_SCANS),
    "processor time to decode one": f"{decoder.CPU_SECONDS} s and {number(decoder.CPU_SECONDS_A_MEGAPIXEL)} s a megapixel",
    "memory to decode one": f"{decoder.MEMORY_BYTES // MB} MiB, twice the file, {decoder.MEMORY_BYTES_A_PIXEL} bytes a pixel",
    "photos, tasks, added labels a request": f"{LIMITS.images}, {number(LIMITS.tasks)}, {LIMITS.labels} "
    f"({number(LIMITS.added)} over all tasks)",
    "photos that wait": number(LIMITS.pending_images),
    "photos that wait, of one client": "three quarters of these",
    "class names of a published pack, times its templates": f"{number(LIMITS.names)} with {number(LIMITS.name_chars)} characters",
    "packs that are tried out before they are published": f"{LIMITS.publications}, one a client",
    "state that comes with a pack": f"{LIMITS.state_bytes // MB} MiB",
    "photos that a task is taught from": f"{number(LIMITS.taught_photos)}; {number(LIMITS.taught_scores)} times its classes and "
    "templates",
    "packs that wait for the text encoder": number(LIMITS.pending_packs),
    "class features in memory": f"{LIMITS.residents_bytes // MB} MiB",
}


def test_every_limit_is_documented_as_it_is() -> None:
    assert {name: default for name, (default, _) in table().items()} == DOCUMENTED
    assert LIMITS.client_images == LIMITS.pending_images * 3 // 4
    assert LIMITS.client_publications == 1
    assert LIMITS.client_bodies_bytes == 2 * LIMITS.body_bytes
    assert LIMITS.bodies_bytes == 4 * LIMITS.body_bytes


@pytest.mark.parametrize("option", sorted({option for _, option in table().values() if option}))
def test_every_option_of_the_table_exists(option: str) -> None:
    assert option in CliRunner().invoke(command, ["--help"]).output


def test_other_figures_of_the_text() -> None:
    assert f"longer than {QUICK_SECONDS:g} s and {QUICK_SECONDS_A_MEGAPIXEL:g} s a megapixel while others wait" in TEXT
    assert f"answers what was accepted for up to {GRACE_SECONDS} s" in TEXT
