"""The documents against what they are about: links, commands and their options, methods, the site's pages, the width of prose."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from common import ROOT

from edge_qprompt.learn import METHODS

PAGES = sorted(ROOT / name for name in subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).split())
WIDTH = 100


def prose(page: Path) -> str:
    """Without code, tables, headings, pictures, and what programs write."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    kept = [line for line in text.splitlines() if not re.match(r"\s*(\||#|!\[|<|`python|\[Unreleased\])| {4,}\S|:::", line)]
    return "\n".join(kept)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_wrapped(page: Path) -> None:
    long = [line for line in prose(page).splitlines() if len(line) > WIDTH and " " in line.strip().lstrip("*- ")[:WIDTH]]
    assert long == []


def commands() -> list[tuple[str, str]]:
    """Every command line of the documents, by the page that it stands on."""
    found = []
    for page in PAGES:
        if page.name == "CHANGELOG.md" or "adr" in page.parts:  # of their time
            continue
        for block in re.findall(r"```(?:\w*)\n(.*?)```", page.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, line.strip()) for line in lines if line.strip().startswith("edge-qprompt ")]
    return found


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 30


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_have_the_options_that_are_said(page: str, line: str) -> None:
    words = line.partition("#")[0].split()[1:]
    (point,) = entry_points(group="edge_qprompt.commands", name=words[0])
    verb: click.Command = point.load()
    if isinstance(verb, click.Group):
        verb = verb.commands[words[1]]
    known = {name for parameter in verb.params for name in parameter.opts}
    said = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert said <= known | {"--help"}, f"{page}: {line}"


def test_every_method_is_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text().partition("| `--method` |")[2].partition("\n\n")[0]
    assert set(METHODS.ours) - set(re.findall(r"`([^`]+)`", table)) == set()


def test_the_site_has_every_page() -> None:
    listed = set(re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if "docs" in page.relative_to(ROOT).parts[:1]}
    assert pages == listed
