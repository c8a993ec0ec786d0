"""`edge-qprompt tasks`: what a server offers."""

from __future__ import annotations

from typing import Any

import click

from device_agent import terminal


@click.command("tasks", short_help="List the tasks of a server.")
@terminal.server_options
@terminal.json_option
def command(server: str, token: str | None, timeout: float, as_json: bool) -> None:
    """List a server's tasks, by name: what channel stable is, its size, and its accuracy where it is known.

    This is what the server says. What a device runs is decided by signatures: see `pull`.

    \b
      edge-qprompt tasks --server https://packs.example.org
    """
    from device_agent.client import Client, ClientLimits

    with Client(server, token, ClientLimits(seconds=timeout)) as client:
        result = {"server": client.name, "tasks": list(client.tasks())}
    terminal.emit(result, as_json, _lines)


def _lines(r: dict[str, Any]) -> list[str]:
    from device_agent.client import printable

    if not r["tasks"]:
        return [f"there are no tasks on {r['server']}"]
    width = max(len(row["name"]) for row in r["tasks"])
    return [printable(f"{row['name']:<{width}}  {_facts(row)}") for row in r["tasks"]]


def _facts(row: dict[str, Any]) -> str:
    """One line, whatever the server has put into the fields."""
    accuracy = row.get("accuracy")
    stable = row["channels"].get("stable") if isinstance(row.get("channels"), dict) else None
    parts = [f"stable {_stable(stable)}", f"{row.get('size')} bytes", f"{row.get('classes')} classes", f"{row.get('method')}"]
    if isinstance(accuracy, float | int):
        parts.append(terminal.percent(accuracy))
    return ", ".join(parts)


def _stable(pointer: Any) -> str:
    if not isinstance(pointer, dict):
        return "points nowhere"
    return f"version {pointer.get('version')}" + ("" if pointer.get("signed") is True else " (not signed)")
