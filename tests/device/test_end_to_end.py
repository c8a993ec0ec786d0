"""The whole way, with the real command and the real server: learn, push, pull, and the same answer on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from common import DEMO, Command, Learned
from servers import LiveServer, token

from edge_qprompt import Pack

PHOTO = DEMO / "test" / "bag" / "3.png"


def test_device_and_server_give_the_same_answer(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    store, report = tmp_path / "store", tmp_path / "report.json"
    report.write_text(json.dumps(learned.done.json))
    server = LiveServer.start(store, tmp_path)
    try:
        where = ("--server", server.url, "--token", token(store, "publish", "promote"))
        keys = edge_qprompt_command("keygen", "--out", "fleet", cwd=tmp_path)
        assert keys.code == 0, keys.err
        push = ("push", learned.path, *where, "--task", "clothes", "--key", "fleet", "--report", report, "--json")
        assert edge_qprompt_command(*push, cwd=tmp_path).json["version"] == 1
        pull = ("pull", "clothes", "--server", server.url, "--trust", "fleet.pub", "--out", "here.qpk", "--json")
        assert edge_qprompt_command(*pull, cwd=tmp_path).json["changed"]
        assert (tmp_path / "here.qpk").read_bytes() == learned.path.read_bytes()

        here = edge_qprompt_command("classify", "here.qpk", PHOTO, "--json", cwd=tmp_path).json["images"][0]["labels"]
        there = httpx.post(f"{server.url}/v1/classify?task=clothes", content=PHOTO.read_bytes(), timeout=30).json()
        answer = there["images"][0]["tasks"]["clothes"]
        assert answer["version"] == 1
        assert [row["label"] for row in answer["labels"]] == [row["label"] for row in here]
        assert [row["probability"] for row in answer["labels"]] == pytest.approx([row["probability"] for row in here], abs=1e-3)

        shown = httpx.get(f"{server.url}/v1/tasks/clothes").json()["versions"][0]
        assert shown["report"]["losses"] == learned.done.json["losses"]

        other = tmp_path / "other.qpk"
        again = ("adapt", learned.photos, "--epochs", "2", "--shots", "3", "--seed", "2", "--out", other, "--json")
        assert edge_qprompt_command(*again).code == 0
        pushed = edge_qprompt_command("push", other, *where, "--task", "clothes", "--key", "fleet", "--json", cwd=tmp_path).json
        assert (pushed["version"], pushed["serial"]) == (2, 2)
        assert edge_qprompt_command(*pull, cwd=tmp_path).json["version"] == 2
        back = edge_qprompt_command("rollback", "clothes", *where, "--key", "fleet", "--json", cwd=tmp_path).json
        assert (back["version"], back["serial"]) == (1, 3)
        assert edge_qprompt_command(*pull, cwd=tmp_path).json["version"] == 1
        assert Pack.open(tmp_path / "here.qpk") == Pack.open(learned.path)
        listed = edge_qprompt_command("tasks", "--server", server.url, "--json").json
        assert [task["name"] for task in listed["tasks"]] == ["clothes"]

        moved = httpx.put(
            f"{server.url}/v1/tasks/clothes/channels/stable",
            headers={"Authorization": f"Bearer {where[3]}"},
            json={"version": 2},
        )
        assert moved.json()["signed"] is False
        refused = edge_qprompt_command(*pull, cwd=tmp_path)  # the device trusts the key, not the server
        assert refused.code == 1
        assert "stays as it was" in refused.err
        assert Pack.open(tmp_path / "here.qpk") == Pack.open(learned.path)
    finally:
        assert server.stop() == 0
