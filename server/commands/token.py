"""`edge-qprompt token`: who may do what on a server."""

from __future__ import annotations

import json
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
@click.option("--name", default="token", show_default=True, help="Whose it is; stands in the audit log.")
@click.option("--days", type=click.IntRange(1), help="Until it expires; without, never.")
def create(store: str, scopes: tuple[str, ...], name: str, days: int | None) -> None:
    """Make a token and print it, once: only a digest of it is kept.

    \b
      edge-qprompt token create --store packs/ --scope publish --scope promote --name ci
    """
    if not (name.isprintable() and 0 < len(name) <= 64):
        raise StoreError(f"--name {name!r} is not text of 1 to 64 characters: shorten it")
    click.echo(_tokens(store).create(name, scopes, days))


@command.command("list")
@store_option
@json_option
def show(store: str, as_json: bool) -> None:
    """All tokens, without what would let anybody use them."""
    rows = _tokens(store).list()
    click.echo(json.dumps({"tokens": rows}) if as_json else "\n".join(map(_line, rows)) or "there are no tokens")


@command.command("revoke")
@store_option
@click.argument("token_id", metavar="ID", type=int)
def revoke(store: str, token_id: int) -> None:
    """Make the token with this ID (see `list`) useless at once."""
    _tokens(store).revoke(token_id)
    click.echo(f"token {token_id} is revoked")


def _tokens(store: str) -> Tokens:
    try:
        from server.database import Database
        from server.tokens import Tokens
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "the server", "server") from error
    return Tokens(Database(store))


def _line(row: dict[str, Any]) -> str:
    end = f"revoked {row['revoked']}" if row["revoked"] else f"expires {row['expires'] or 'never'}"
    return f"{row['id']:>4}  {row['name']:<20}  {','.join(row['scopes']):<32}  created {row['created']}  {end}"
