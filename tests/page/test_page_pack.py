"""The page's reader of packs against the library's: the same contents, and the same refusals."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from damages import DAMAGES
from hypothesis import HealthCheck, given, settings
from packs import PACKS, SMALL
from pages import Sites, settled

from edge_qprompt.pack.pack import Pack
from edge_qprompt.pack.section import DECISION, PROVENANCE, RESIDUAL_BIAS, TEMPLATES

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Read = Callable[[bytes], dict[str, Any]]
READ = """async (packed) => {
  const { readPack, PackError } = await import(new URL("static/pack.js", document.baseURI));
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  try {
    const pack = readPack(bytes.buffer);
    const plain = (array) => array && Array.from(array);
    return { ...pack, namesDigest: plain(pack.namesDigest), tensors: pack.tensors.map((tensor) => ({ ...tensor,
      codebook: plain(tensor.codebook), indexes: plain(tensor.indexes), values: plain(tensor.values) })) };
  } catch (error) {
    if (!(error instanceof PackError)) throw error;
    return { error: error.message };
  }
}"""


@pytest.fixture(scope="module")
def read(browser: Browser, sites: Sites) -> Iterator[Read]:
    """The page's reader, in a browser."""
    page = browser.new_page()
    page.goto(sites.empty)
    yield lambda data: settled(page, READ, base64.b64encode(data).decode())
    page.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pack=PACKS)
def test_any_pack_reads_the_same(read: Read, pack: Pack) -> None:
    got = read(pack.encode())
    assert (got["size"], got["fingerprint"]) == (pack.size, pack.fingerprint.hex())
    assert got["classNames"] == (None if pack.class_names is None else list(pack.class_names))
    assert got["template"] == pack.template
    templates = pack.get(TEMPLATES)
    assert got["templates"] == (None if templates is None else list(templates))
    bias = pack.get(RESIDUAL_BIAS)
    assert got["residualBias"] == (None if bias is None else pytest.approx(bias, rel=1e-9))
    decision = pack.get(DECISION)
    assert (got["decision"] and tuple(got["decision"].values())) == decision
    assert got["sharedAdapter"] == pack.shared_adapter
    assert got["provenance"] == pack.get(PROVENANCE)
    assert [section["size"] for section in got["sections"]] == [section.size for section in pack.sections]
    assert len(got["tensors"]) == len(pack.tensors)
    for found, tensor in zip(got["tensors"], pack.tensors, strict=True):
        assert (found["role"], found["bits"], tuple(found["shape"])) == (tensor.role, tensor.bits, tensor.shape)
        assert (found["size"], found["payload"]) == (tensor.size, tensor.payload_bytes)
        values = found["values"] or [found["codebook"][index] for index in found["indexes"]]
        assert values == tensor.values().ravel().tolist()


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_the_library_refuses_the_page_refuses(read: Read, damage: str) -> None:
    assert read(DAMAGES[damage][0]).get("error")


def test_no_flipped_bit_passes(read: Read) -> None:
    whole = SMALL.encode()
    for place in range(len(whole)):
        assert read(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]).get("error"), place
