"""`edge-qprompt serve`: the server."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edge_qprompt.errors import MissingExtraError
from server import origins, sockets

GRACE_SECONDS = 5  # for what is under way when the server is asked to stop; container engines kill after ten
STARTUP_FAILURE = 1  # uvicorn has 3, which is none of our exit codes


def _origins(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(origins.origin(each) for each in given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("serve", short_help="Hand out packs and classify photos over HTTP.")
@click.option(
    "--store",
    required=True,
    metavar="DIR|URL",
    help="Where tasks and packs are kept: a folder (made if need be), or postgresql://user@host/name.",
)
@click.option("--backbone", default="nano", show_default=True, metavar="NAME|DIR", help="Frozen model of all tasks.")
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    help="Image encoder: fp32, or int8 and the like if exported; auto: the fastest here, of those that lose little.",
)
@click.option("--providers", default="cpu", show_default=True, metavar="NAMES", help="What runs the image encoder.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Cores that a batch uses; 0, the default, is one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--uds", type=click.Path(path_type=Path), help="A Unix socket to listen on, in place of --host and --port.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, each with its own encoder.")
@click.option("--root-path", default="", help="Path under which a proxy shows this server, e.g. /vision.")
@click.option(
    "--trusted-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy whose X-Forwarded-For says who a client is; an address, a network, or * for a Unix socket. Several times.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    callback=_origins,
    help="Whose pages may ask from a browser: scheme://host[:port], or *. Several times.",
)
@click.option("--anonymous-read/--no-anonymous-read", default=True, show_default=True, help="Packs without a token.")
@click.option("--anonymous-classify/--no-anonymous-classify", default=True, show_default=True, help="Labels without a token.")
@click.option(
    "--gate", type=click.FloatRange(0, 1), help="Refuse packs whose report states less held-out accuracy, 0 to 1, or none."
)
@click.option("--max-body-mb", type=click.IntRange(1), default=16, show_default=True, help="Of one request.")
@click.option(
    "--body-seconds", type=click.FloatRange(0.1), default=20.0, show_default=True, help="Until a request's body must be here."
)
@click.option(
    "--decode-seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="For one photo, waiting included."
)
@click.option("--max-megapixels", type=click.FloatRange(0.01), default=25.0, show_default=True, help="Of one photo.")
@click.option("--cache-mb", type=click.IntRange(1), default=64, show_default=True, help="For packs that are ready to answer.")
@click.option("--batch", type=click.IntRange(1), default=2, show_default=True, help="Photos in a batch, at most.")
@click.option("--queue", type=click.IntRange(1), default=64, show_default=True, help="Photos that may wait; more get 503.")
@click.pass_context
def command(context: click.Context, /, uds: Path | None, host: str, port: int, **options: Any) -> None:
    """Keep tasks and packs, hand them to devices, and classify photos, in one process.

    \b
      edge-qprompt serve --store packs/
      edge-qprompt serve --store packs/ --host 0.0.0.0 --no-anonymous-classify
      edge-qprompt serve --store postgresql://eq@db/eq --workers 2
      edge-qprompt serve --store packs/ --uds /run/edge-qprompt/http --trusted-proxy '*'

    The page is at /, the description of the API at /docs. docs/operate.md tells how to put it behind a proxy.
    """
    if uds is not None and any(context.get_parameter_source(name) is not ParameterSource.DEFAULT for name in ("host", "port")):
        raise click.UsageError("--uds stands in place of --host and --port: leave those out")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it once more when all is done
    with sockets.tcp(host, port) if uds is None else sockets.unix(uds) as held:
        _serve(held, **options)


def _serve(held: list[socket.socket], workers: int, root_path: str, proxies: tuple[str, ...], **options: Any) -> None:
    from edge_qprompt.backbone import Backbone

    try:
        from server.app import SETTINGS_VARIABLE, create_app
        from server.database import Database
        from server.log import set_up
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "server") from error

    settings = _settings(options)
    set_up()
    common = uvicorn_options(settings.limits.connections, root_path)
    if proxies or "FORWARDED_ALLOW_IPS" not in os.environ:  # uvicorn's own name for it; else it trusts this machine unasked
        common["forwarded_allow_ips"] = "*" if "*" in proxies else list(proxies)
    if workers == 1:
        _run(held, create_app(settings), common)
        return
    with tempfile.TemporaryDirectory(prefix="edge-qprompt-metrics-") as folder:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        os.environ[SETTINGS_VARIABLE] = settings.to_json()
        Database(settings.store).close()  # what is wrong is said once, not by every worker
        Backbone.open(settings.backbone, settings.precision, settings.threads, settings.providers)
        _run(held, "server.app:from_environment", common | {"factory": True, "workers": workers})


def _run(held: list[socket.socket], app: Any, options: dict[str, Any]) -> None:
    """What `uvicorn.run` does, on sockets that are here already."""
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    config = uvicorn.Config(app, **options)
    logging.getLogger("uvicorn.error").info("Uvicorn running on %s (Press CTRL+C to quit)", sockets.shown(held))
    if config.workers > 1:
        Multiprocess(config, held).run()
        return
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):  # when all is done
        server.run(held)
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def uvicorn_options(connections: int, root_path: str = "") -> dict[str, Any]:
    """How uvicorn runs the app."""
    from server.log import UVICORN
    from server.protocol import DeadlineProtocol

    return {
        "root_path": root_path,
        "http": DeadlineProtocol,
        "ws": "none",
        "limit_concurrency": connections,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        "access_log": False,
        "server_header": False,
        "log_config": UVICORN,
    }


def _settings(options: dict[str, Any]) -> Any:
    from server.settings import MB, Limits, ServerSettings

    queue = options["queue"]
    limits = Limits(
        body_bytes=options["max_body_mb"] * MB,
        body_seconds=options["body_seconds"],
        bodies_bytes=max(64, 4 * options["max_body_mb"]) * MB,
        client_bodies_bytes=max(32, 2 * options["max_body_mb"]) * MB,
        decode_seconds=options["decode_seconds"],
        pixels=int(options["max_megapixels"] * 1e6),
        residents_bytes=options["cache_mb"] * MB,
        batch=options["batch"],
        pending_images=queue,
        client_images=max(1, queue * 3 // 4),
    )
    names = (
        "store",
        "backbone",
        "precision",
        "providers",
        "threads",
        "anonymous_read",
        "anonymous_classify",
        "gate",
        "cors_origins",
    )
    return ServerSettings(**{name: options[name] for name in names}, limits=limits)
