"""The console script: finds the verb, runs it, turns errors into one line and an exit code.

Verbs come from the entry-point group GROUP, so each package brings its own and none imports
another; only the verb that is called is loaded. Exit codes: 0 done, 1 an error of ours or of the
disk, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import errno
import io
import sys
import warnings
from importlib.metadata import EntryPoint, entry_points, version

import click

from edge_qprompt.errors import EdgeQPromptError, MissingExtraError, extra_of

GROUP = "edge_qprompt.commands"
INTERRUPTED = 130


class Verbs(click.Group):
    """A click group whose commands are entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs, also of those whose extra is not installed."""
        return sorted(point.name for point in entry_points(group=GROUP))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Load one verb."""
        found: tuple[EntryPoint, ...] = tuple(entry_points(group=GROUP, name=name))
        return found[0].load() if found else None


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("edge-qprompt"), prog_name="edge-qprompt")
@click.option("--traceback", is_flag=True, help="Show where an error came from.")
def cli(traceback: bool) -> None:
    """Teach a frozen vision-language model your classes, on this machine, in a few hundred bytes.

    \b
    Photos, one folder per class:       photos/rose/1.jpg  photos/tulip/1.jpg ...
    Learn a pack from them:             edge-qprompt adapt photos/ --out flowers.qpk
    Label new photos with it:           edge-qprompt classify flowers.qpk new.jpg
    See all of it on built-in photos:   edge-qprompt demo

    `edge-qprompt VERB --help` explains each verb with examples.
    """


def main() -> None:
    """Entry point of the console script."""
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file name need not be UTF-8
    try:
        code = cli.main(prog_name="edge-qprompt", standalone_mode=False)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except ModuleNotFoundError as error:
        if "--traceback" in sys.argv or error.name is None or extra_of(error.name) is None:
            raise
        click.echo(f"error: {MissingExtraError(error.name)}", err=True)
        code = 1
    except (EdgeQPromptError, OSError) as error:
        if "--traceback" in sys.argv:
            raise
        click.echo(f"error: {_sentence(error)}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full ({error.strerror}), nothing was half-written: free some space and run it again"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'a file'}"
    return str(error)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"warning: {message}", err=True)
