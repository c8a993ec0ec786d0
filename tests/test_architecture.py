"""The arrows between packages, what stays unloaded, and the public surface."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edge_qprompt

ROOT = Path(__file__).parent.parent
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


@pytest.mark.parametrize("verb", ["adapt", "evaluate", "classify", "inspect", "backbones", "demo", "export"])
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
    assert edge_qprompt.__all__ == ["Backbone", "Classifier", "EdgeQPromptError", "Pack", "Prediction", "Tasks"]
    assert all(hasattr(edge_qprompt, name) for name in edge_qprompt.__all__)


def test_packages_are_listed_in_full() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.parent.relative_to(ROOT).parts) for package in PACKAGES for path in files(package)}
    assert listed == found
