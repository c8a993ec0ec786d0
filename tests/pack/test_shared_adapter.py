"""An adapter that packs share: apart and together again, on the command line, from a server and on a device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from apis import PHOTO, Api, make_pack, start
from click.testing import CliRunner
from common import DEMO, Command, Done
from fleet import KEY, Fleet, about

from device_agent.commands import split as split_command
from edge_qprompt import Backbone, Classifier
from edge_qprompt.errors import FingerprintError, PackError
from edge_qprompt.pack.adapter import beside, is_adapter, joined, split
from edge_qprompt.pack.pack import Pack, PackTensor, Role, Section
from edge_qprompt.pack.section import SHARED_ADAPTER
from edge_qprompt.trust.keys import write_key_pair

BAG = DEMO / "test" / "bag" / "0.png"
HIDDEN = 8


@pytest.fixture(scope="module")
def whole(nano: Backbone) -> Pack:
    """A prompt and an adapter that moves features far enough to change labels' probabilities."""
    return with_adapter(make_pack(nano.manifest.text.width), nano.manifest.embed_dim)


def with_adapter(pack: Pack, dims: int, seed: int = 0) -> Pack:
    rng = np.random.default_rng(seed)
    inner = PackTensor.raw(Role.ADAPTER_IN, rng.normal(size=(HIDDEN, dims + 1)).astype(np.float32))
    outer = PackTensor.raw(Role.ADAPTER_OUT, (0.1 * rng.normal(size=(dims, HIDDEN + 1))).astype(np.float32))
    return replace(pack, tensors=(*pack.tensors, inner, outer))


def test_apart_and_together_again(nano: Backbone, whole: Pack) -> None:
    parts = split(whole)
    assert joined(Pack.decode(parts.prompt.encode()), Pack.decode(parts.adapter.encode())) == whole
    assert parts.prompt.size < 400 < parts.adapter.size
    assert parts.prompt.shared_adapter == hashlib.sha256(parts.adapter.encode()).hexdigest()
    assert [is_adapter(pack) for pack in (parts.adapter, parts.prompt, whole)] == [True, False, False]
    features = np.random.default_rng(1).normal(size=(4, nano.manifest.embed_dim)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    of_parts = Classifier(nano, parts.prompt, adapter=parts.adapter).probabilities(features)
    np.testing.assert_array_equal(of_parts, Classifier(nano, whole).probabilities(features))
    plain = replace(parts.prompt, sections=parts.prompt.sections[1:])
    assert np.abs(of_parts - Classifier(nano, plain).probabilities(features)).max() > 1e-3


def test_another_pack_that_holds_the_adapter_will_do(whole: Pack) -> None:
    reference = Section(SHARED_ADAPTER.tag, bytes.fromhex(whole.pack_id))
    prompt = replace(whole, tensors=whole.tensors[:1], sections=(reference, *whole.sections))
    assert joined(prompt, whole) == whole


def test_what_cannot_be_joined(nano: Backbone, whole: Pack) -> None:
    parts = split(whole)
    digest = parts.adapter.pack_id
    with pytest.raises(PackError, match=f"needs the adapter {digest}: give"):
        Classifier(nano, parts.prompt)
    with pytest.raises(PackError, match=f"needs the adapter {digest}, got {whole.pack_id}"):
        joined(parts.prompt, whole)
    with pytest.raises(PackError, match="refers to no adapter"):
        joined(whole, parts.adapter)
    with pytest.raises(PackError, match="holds no adapter"):
        split(replace(whole, tensors=whole.tensors[:2]))
    with pytest.raises(FingerprintError, match="is of backbone"):
        joined(replace(parts.prompt, fingerprint=bytes(8)), parts.adapter)
    both = replace(whole, sections=(parts.prompt.sections[0],))
    with pytest.raises(PackError, match="brings another along"):
        joined(both, parts.adapter)
    half = replace(parts.adapter, tensors=parts.adapter.tensors[:1])
    with pytest.raises(PackError, match="which holds none"):
        joined(replace(parts.prompt, sections=(Section(SHARED_ADAPTER.tag, bytes.fromhex(half.pack_id)),)), half)
    with pytest.raises(PackError, match="31 bytes, a SHA-256 has 32"):
        Section(SHARED_ADAPTER.tag, bytes(31))


# the command line


def test_the_command_splits_and_joins(edge_qprompt_command: Command, whole: Pack, tmp_path: Path) -> None:
    for name, pack in (("whole.qpk", whole), ("other.qpk", split(with_adapter(whole, 4, seed=2)).adapter)):
        pack.save(tmp_path / name)
    prompt, adapter = tmp_path / "task.qpk", tmp_path / "adapter.qpk"
    words = [str(tmp_path / "whole.qpk"), "--prompt", str(prompt), "--adapter", str(adapter)]
    assert CliRunner().invoke(split_command.command, words).exit_code == 0
    assert (Pack.open(prompt), Pack.open(adapter)) == (split(whole).prompt, split(whole).adapter)

    def label(pack: Path, *more: str | Path) -> Done:
        return edge_qprompt_command("classify", pack, BAG, "--json", *more)

    by_whole = label(tmp_path / "whole.qpk").json["images"]
    assert label(prompt, "--adapter", tmp_path / "other.qpk", "--adapter", adapter).json["images"] == by_whole
    digest = split(whole).adapter.pack_id
    assert f"needs the adapter {digest}: give" in label(prompt).err
    assert f"needs the adapter {digest}, got" in label(prompt, "--adapter", tmp_path / "other.qpk").err
    adapter.rename(beside(prompt, digest))
    assert label(prompt).json["images"] == by_whole
    shown = edge_qprompt_command("inspect", prompt).out
    assert f"adapter    {digest}, {split(whole).adapter.size} bytes beside this pack" in shown


# the server


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    yield from start(tmp_path / "store")


def test_a_server_finds_the_adapter_in_its_catalogue(api: Api, nano: Backbone, whole: Pack) -> None:
    parts = split(whole)
    early = api.call("POST", "/v1/tasks/shared/versions", "publish", content=parts.prompt.encode())
    assert early.status_code == 422
    assert f"needs the adapter {parts.adapter.pack_id}, which is not here: publish that first" in early.json()["detail"]
    assert api.publish("adapters", parts.adapter, stable=False)["version"] == 1
    moved = api.call("PUT", "/v1/tasks/adapters/channels/stable", "promote", json={"version": 1})
    assert moved.status_code == 422
    assert "is an adapter for other packs" in moved.json()["detail"]
    api.publish("shared", parts.prompt)
    api.publish("also", replace(parts.prompt, precision=7))
    api.publish("whole", whole)
    found = api.call("POST", "/v1/classify", content=PHOTO).json()["images"][0]["tasks"]
    assert found["shared"]["labels"] == found["also"]["labels"] == found["whole"]["labels"]


def test_a_server_refuses_what_does_not_fit(api: Api, nano: Backbone, whole: Pack) -> None:
    wide = split(with_adapter(replace(whole, tensors=whole.tensors[:1]), nano.manifest.embed_dim + 1)).adapter
    foreign = replace(split(whole).adapter, fingerprint=bytes(8))
    api.publish("nothing", make_pack(nano.manifest.text.width), stable=False)
    to_none = Section(SHARED_ADAPTER.tag, bytes.fromhex(make_pack(nano.manifest.text.width).pack_id))
    lost = replace(split(whole).prompt, sections=(to_none, *whole.sections))
    for pack, said in (
        (wide, "ADAPTER_IN and ADAPTER_OUT have shapes"),
        (foreign, "was learned on backbone"),
        (lost, "which holds none"),
    ):
        done = api.call("POST", "/v1/tasks/adapters/versions", "publish", content=pack.encode())
        assert done.status_code == 422
        assert said in done.json()["detail"]


# the device


def test_pull_fetches_the_adapter_and_keeps_it(edge_qprompt_command: Command, whole: Pack, tmp_path: Path) -> None:
    parts = split(whole)
    write_key_pair(tmp_path / "fleet", KEY)
    (tmp_path / "device").mkdir()
    out = tmp_path / "device" / "flowers.qpk"
    here = beside(out, parts.adapter.pack_id)
    path = f"/v1/packs/{parts.adapter.pack_id}"
    with Fleet() as fleet:
        fleet.offer(parts.prompt, about(parts.prompt, 5))
        words = ("pull", "flowers", "--server", fleet.url, "--trust", tmp_path / "fleet.pub", "--out", out, "--json")
        missing = edge_qprompt_command(*words)
        assert missing.code == 1
        assert not out.exists()
        fleet.instead[path] = lambda handler: handler.send(200, "application/octet-stream", whole.encode())
        wrong = edge_qprompt_command(*words)
        assert "the adapter has SHA-256" in wrong.err
        assert not list(out.parent.iterdir())
        fleet.instead[path] = lambda handler: handler.send(200, "application/octet-stream", parts.adapter.encode())
        done = edge_qprompt_command(*words)
        assert (done.json["adapter"], done.json["adapter_size"]) == (str(here), parts.adapter.size)
        assert Pack.open(here) == parts.adapter
        fleet.seen.clear()
        assert edge_qprompt_command(*words).code == 0
        assert path not in [seen for _, seen, _ in fleet.seen]
    assert edge_qprompt_command("classify", out, BAG).code == 0
