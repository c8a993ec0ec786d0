"""The arrows between packages, what stays unloaded, and the public surface."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from common import ROOT

import edge_qprompt

PACKAGES = ("edge_qprompt", "exporter", "device_agent", "server")
HEAVY = {"torch", "open_clip", "torchvision", "timm"}
RUNTIME = {"onnxruntime", "onnxruntime_extensions"}


def imported(path: Path, *, module_level: bool = False) -> set[str]:
    """Top-level names of what a file imports; `module_level` leaves functions and TYPE_CHECKING out."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if module_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_the_core(package: str) -> None:
    others = set(PACKAGES) - {package, "edge_qprompt"} if package != "edge_qprompt" else set(PACKAGES) - {package}
    for path in files(package):
        assert not imported(path) & others, path


# what each room of the library may import, beside errors: other rooms by their face, and the files that lie beside the rooms
LAW = {
    "errors": set(),
    "files": set(),
    "arrays": set(),
    "prompts": set(),
    "codebook": set(),
    "console": set(),
    "pack": {"codebook", "files"},
    "backbone": {"arrays", "files", "pack", "prompts"},
    "photos": {"backbone", "files", "prompts"},
    "classify": {"arrays", "backbone", "pack", "photos", "prompts"},
    "trust": {"files", "pack"},
    "learn": {"arrays", "backbone", "classify", "codebook", "console", "files", "pack", "photos", "prompts"},
    "bench": {"backbone", "classify", "codebook", "learn", "pack", "photos"},
}


def rooms_of(path: Path) -> set[tuple[str, ...]]:
    """Modules of the library that a file imports, as parts behind `edge_qprompt`; a name imported from it counts as one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "edge_qprompt":
            found |= {(alias.name,) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edge_qprompt."):
            found.add(tuple((node.module or "").split(".")[1:]))
        elif isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("edge_qprompt.")}
    return found


def test_the_law_of_arrows_has_no_circle() -> None:
    settled: set[str] = set()
    while len(settled) < len(LAW):
        free = {room for room, below in LAW.items() if room not in settled and below <= settled}
        assert free, set(LAW) - settled
        settled |= free


@pytest.mark.parametrize("room", LAW)
def test_a_room_imports_faces_of_those_below_it_alone(room: str) -> None:
    place = ROOT / "edge_qprompt" / room
    for path in sorted(place.rglob("*.py")) or [place.with_suffix(".py")]:
        for parts in rooms_of(path):
            if parts[0] != room and parts[0] in LAW:
                assert parts[0] in LAW[room] | {"errors"}, (path, parts)
                assert len(parts) == 1, f"{path} imports {'.'.join(parts)}, which is private to {parts[0]}"


def test_the_document_has_the_law() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]*)\|$", page.partition("## Rooms")[2].partition("## ")[0], re.MULTILINE)
    assert {room: set(re.findall(r"`(\w+)`", below)) for room, below in rows} == LAW


def test_every_file_of_the_library_has_a_room() -> None:
    found = {path.relative_to(ROOT / "edge_qprompt").parts[0].removesuffix(".py") for path in files("edge_qprompt")}
    assert found == {"__init__", *LAW}


@pytest.mark.parametrize("package", ["exporter", "device_agent", "server"])
def test_wings_import_faces_alone(package: str) -> None:
    for path in files(package):
        private = {".".join(parts) for parts in rooms_of(path) if len(parts) > 1}
        assert not private, (path, private)


@pytest.mark.parametrize("room", [room for room in LAW if (ROOT / "edge_qprompt" / room).is_dir()])
def test_a_face_says_what_it_shows(room: str) -> None:
    face = importlib.import_module(f"edge_qprompt.{room}")
    assert face.__doc__
    assert len(set(face.__all__)) == len(face.__all__)
    assert all(hasattr(face, name) for name in face.__all__)


def test_torch_lives_under_learn_and_in_the_exporter() -> None:
    for package in ("edge_qprompt", "device_agent", "server"):
        for path in files(package):
            if "learn" not in path.parts:
                assert not imported(path) & HEAVY, path


def test_open_clip_is_touched_by_one_file() -> None:
    touching = [path.name for path in files("exporter") if imported(path) & {"open_clip"}]
    assert touching == ["source.py"]


@pytest.mark.parametrize("module", ["edge_qprompt", "server", "device_agent.main", "device_agent.commands.classify"])
def test_importing_leaves_torch_out(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY | {'fastapi'}!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", ["adapt", "doctor", "evaluate", "classify", "inspect", "backbones", "demo", "export"])
def test_help_of_a_verb_loads_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\nfrom device_agent.main import cli\n"
        f"try: cli.main(['{verb}', '--help'], standalone_mode=False)\n"
        f"finally: assert not {HEAVY | {'onnxruntime', 'onnx', 'fastapi'}!r} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert f"edge-qprompt {verb}" in done.stdout


def test_the_core_comes_before_onnxruntime() -> None:
    """edge_qprompt/__init__.py decides whether onnxruntime reports usage, so it runs before any import of onnxruntime."""
    core = ast.parse((ROOT / "edge_qprompt" / "__init__.py").read_text()).body
    decides = [at for at, node in enumerate(core) if "ORT_DISABLE_TELEMETRY" in ast.unparse(node)]
    imports = [at for at, node in enumerate(core) if isinstance(node, ast.ImportFrom)]
    assert decides and decides[0] < imports[0]
    importing = {path.relative_to(ROOT).parts[0] for package in PACKAGES for path in files(package) if imported(path) & RUNTIME}
    assert importing == {"edge_qprompt", "exporter"}
    assert imported(ROOT / "exporter" / "__init__.py", module_level=True) == {"edge_qprompt"}
    scripts = [path for path in files("benchmarks") if imported(path) & RUNTIME]
    assert scripts == []  # they go through the core


def test_public_surface() -> None:
    assert edge_qprompt.__all__ == [
        "AdaptSettings",
        "Adaptation",
        "Answer",
        "Backbone",
        "Classifier",
        "Diagnosis",
        "EdgeQPromptError",
        "Evaluation",
        "Pack",
        "Prediction",
        "State",
        "Tasks",
        "adapt",
        "diagnose",
        "encode_photos",
        "evaluate",
        "forget",
        "rename",
        "teach",
        "undo",
    ]
    assert all(hasattr(edge_qprompt, name) for name in edge_qprompt.__all__)


def test_packages_are_listed_in_full() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.parent.relative_to(ROOT).parts) for package in PACKAGES for path in files(package)}
    assert listed == found
