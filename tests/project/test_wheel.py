"""The wheel, installed in an environment of its own: what a user gets, how large it is, and that it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from common import ROOT

CLASSIFY_ONLY_MB = 250


def run(*command: object, cwd: Path) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, env=clean, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=True)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return folder


def test_wheel_carries_backbone_photos_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "edge_qprompt/data/backbones/nano/manifest.json" in names
    assert "edge_qprompt/data/backbones/nano/NOTICE" in names
    assert "edge_qprompt/data/fashion_mnist/LICENSE" in names
    assert "edge_qprompt/py.typed" in names
    assert {"server/page/index.html", "server/page/app.js", "server/migrations/versions/0001_catalogue.py"} <= set(names)
    assert sum(name.endswith(".png") for name in names) == 660
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_install_without_torch_is_small_and_works(environment: Path, tmp_path: Path) -> None:
    command = environment / "bin" / "edge-qprompt"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "adapt" in run(command, "--help", cwd=empty)
    size = sum(path.stat().st_blocks * 512 for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    assert size / 1e6 < CLASSIFY_ONLY_MB
    for verb, extra in ((("keygen", "--out", "key"), "fleet"), (("serve", "--store", "s"), "server")):
        done = subprocess.run([command, *verb], cwd=empty, capture_output=True, text=True, timeout=400)
        assert (done.returncode, f"pip install 'edge-qprompt[{extra}]'" in done.stderr) == (1, True), done.stderr
    backbones = json.loads(run(command, "backbones", "--verify", "--json", cwd=empty))
    assert backbones["backbones"][0]["name"] == "nano"
    script = (
        "import sys\nfrom pathlib import Path\nimport edge_qprompt\nfrom edge_qprompt import Backbone, Classifier\n"
        "from edge_qprompt.classify import zero_shot\n"
        "photos = Path(edge_qprompt.__file__).parent / 'data/fashion_mnist/test/trouser'\n"
        "print(zero_shot(Backbone.open('nano'), ['trouser', 'bag']).classify(photos / '0.png')[0].label)\n"
        "assert 'torch' not in sys.modules"
    )
    assert run(environment / "bin" / "python", "-c", script, cwd=empty).strip() in ("trouser", "bag")


def test_missing_extra_is_named(environment: Path, tmp_path: Path) -> None:
    learn, export = ["adapt", "x", "--out", "y.qpk", "--method", "qcoop"], ["export", "ViT-B-32", "openai", "--out", "x"]
    for words, extra in ((learn, "adapt"), (export, "export")):
        done = subprocess.run(
            [environment / "bin" / "edge-qprompt", *words], cwd=tmp_path, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 1
        assert f"pip install 'edge-qprompt[{extra}]'" in done.stderr
