"""Disks that are full or may not be written, and runs that are interrupted: nothing is left half-written."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from common import Command, Learned, MakePhotos, fails

from edge_qprompt.files import write_whole

QUICK = ("--epochs", "1")


def test_the_out_folder_is_looked_at_before_the_work(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos("bag", "coat", each=1)
    done = edge_qprompt_command("adapt", root, "--out", tmp_path / "gone" / "a.qpk")
    fails(done, f"the folder {tmp_path / 'gone'} of --out does not exist: create it first")
    os.mkfifo(tmp_path / "pipe.qpk")
    fails(edge_qprompt_command("adapt", root, "--out", tmp_path / "pipe.qpk"), "pipe.qpk is not a regular file: choose another")


def test_write_whole_replaces_files_only(tmp_path: Path) -> None:
    target = tmp_path / "a.qpk"
    old_mask = os.umask(0o027)
    try:
        write_whole(target, b"one")
        write_whole(target, b"two")
    finally:
        os.umask(old_mask)
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o640  # as the umask says
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="not a regular file"):
        write_whole(tmp_path / "pipe", b"x")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "gone" / "a", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.qpk", "pipe"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without a free byte."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True, timeout=30)


def adapt_again(command: Command, learned: Learned, target: Path, **more: Any) -> None:
    """Over a pack of other settings, which has to survive."""
    before = target.read_bytes()
    fails(
        command("adapt", learned.photos, "--out", target, *QUICK, "--bits", "4", **more),
        "the disk is full",
        "nothing was half-written: free some space and run it again",
    )
    assert target.read_bytes() == before


def test_a_full_disk_leaves_the_old_pack(edge_qprompt_command: Command, learned: Learned, full_disk: Path) -> None:
    target = Path(shutil.copy(learned.path, full_disk))
    with (full_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))
    adapt_again(edge_qprompt_command, learned, target)
    assert sorted(path.name for path in full_disk.iterdir()) == ["clothes.qpk", "filler"]


def test_a_write_that_fails_halfway_leaves_the_old_pack(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    target = Path(shutil.copy(learned.path, tmp_path))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))  # noqa: E731  the pack has more bytes
    adapt_again(edge_qprompt_command, learned, target, preexec_fn=limit)  # Python itself ignores SIGXFSZ
    assert [path.name for path in tmp_path.iterdir()] == ["clothes.qpk"]


def test_a_cache_that_cannot_be_written_costs_only_time(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    evaluate = ("evaluate", learned.path, learned.photos, "--json")
    done = edge_qprompt_command(*evaluate, env={"EDGE_QPROMPT_CACHE": str(tmp_path / "file")})
    assert done.json == edge_qprompt_command(*evaluate).json
    (warning,) = done.err.splitlines()
    assert warning.startswith(f"warning: feature cache {tmp_path / 'file'}")
    assert warning.endswith("features are computed anew")


# interrupted


def start(learned: Learned, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "device_agent", "adapt", learned.photos, "--out", out, "--epochs", "1000000", *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background would inherit "ignore"
    )


@pytest.mark.timeout(600)
def test_interrupted_and_resumed(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    out, checkpoint = tmp_path / "a.qpk", tmp_path / "a.qpk.checkpoint"
    process = start(learned, out)
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, ""), stderr
    assert "the same command with --resume goes on from the last checkpoint" in stderr
    assert stderr.splitlines()[-1] == "interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["a.qpk.checkpoint"]

    again = ("adapt", learned.photos, "--out", out, "--epochs", "1000000", "--resume")
    done = edge_qprompt_command(*again, "--seed", "2")
    fails(done, "a.qpk.checkpoint belongs to a run with other settings, photos or backbone", "without --resume")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    fails(edge_qprompt_command(*again), "the checkpoint", "a.qpk.checkpoint is damaged", "or delete")
    checkpoint.unlink()
    done = edge_qprompt_command("adapt", learned.photos, "--out", out, *QUICK, "--resume")
    assert done.code == 0
    assert "there is no a.qpk.checkpoint to resume from, starting at the beginning" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.qpk", "a.qpk.state"]
