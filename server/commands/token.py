"""`edge-qprompt token`: who may do what on a server."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from edge_qprompt.errors import MissingExtraError, StoreError

if TYPE_CHECKING:
    from server.tokens import Tokens

SCOPES = ("read", "classify", "publish", "promote")

store_option = click.option("--store", required=True, metavar="DIR|URL", help="As of `edge-qprompt serve`.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")


@click.group("token", short_help="Make, list and revoke a server's tokens.")
def command() -> None:
    """Tokens for a server, made where its store is. The server need not run."""


@command.command("create")
@store_option
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="May be given several times.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="PATTERN",
    help="The tasks that it is for, by name or as in 'flowers-*'; may be given several times. Without: all.",
)
@click.option("--name", default="token", show_default=True, help="Whose it is; unique, stands in the audit log.")
@click.option("--days", type=click.IntRange(1), help="Until it expires; without, never.")
@click.option("--new", is_flag=True, help="Make the store if there is none.")
def create(store: str, scopes: tuple[str, ...], tasks: tuple[str, ...], name: str, days: int | None, new: bool) -> None:
    """Make a token and print it, once: only a digest of it is kept.

    \b
      edge-qprompt token create --store packs/ --scope publish --scope promote --name ci
      edge-qprompt token create --store packs/ --scope publish --task 'flowers-*' --name gardener
    """
    with _tokens(store, new=new) as tokens:
        click.echo(tokens.create(name, scopes, days, tasks))


@command.command("list")
@store_option
@json_option
def show(store: str, as_json: bool) -> None:
    """All tokens, without what would let anybody use them."""
    with _tokens(store) as tokens:
        rows = tokens.list()
    click.echo(json.dumps({"tokens": rows}) if as_json else "\n".join(map(_line, rows)) or "there are no tokens")


@command.command("revoke")
@store_option
@click.argument("which", metavar="ID|NAME")
def revoke(store: str, which: str) -> None:
    """Make the token with this ID or name (see `list`) useless at once."""
    with _tokens(store) as tokens:
        name = tokens.revoke(int(which) if which.isdecimal() else which)
    click.echo(f"token {which} is revoked" if which == name else f"token {which} ({name}) is revoked")


@contextmanager
def _tokens(store: str, *, new: bool = False) -> Iterator[Tokens]:
    try:
        import structlog

        from server.database import Database
        from server.failures import AWAY, cause_of
        from server.tokens import Tokens
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "server") from error
    # what the server would log of a failure is this command's one line on stderr
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    database = Database(store, new=new)
    try:
        yield Tokens(database)
    except AWAY as error:
        raise StoreError(f"the store {store} failed ({cause_of(error)}): look at `token list`, and try again") from error
    finally:
        database.close()


def _line(row: dict[str, Any]) -> str:
    end = f"revoked {row['revoked']}" if row["revoked"] else f"expires {row['expires'] or 'never'}"
    facts = f"{row['id']:>4}  {row['name']:<20}  {','.join(row['scopes']):<32}  {','.join(row['tasks']):<16}"
    return f"{facts}  created {row['created']}  {end}"
