"""What HTML pages are made of that need nothing else: pictures are inside, and no script.

Drawn by matplotlib as SVG, photos as small JPEGs.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from edge_qprompt.errors import DataError, MissingExtraError, PhotoError
from edge_qprompt.photos import Source, decode_photo, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THUMBNAIL = 144  # pixels
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1c2321; background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1.5rem .2rem 0; font-weight: normal; }
th { color: #55605c; } svg { max-width: 100%; height: auto; }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; padding: 0; list-style: none; }
.photos img { width: 9rem; height: 9rem; object-fit: cover; border-radius: 4px; display: block; }
.photos li { overflow-wrap: anywhere; }
.note { color: #55605c; }
"""


def check_folder(folder: Path) -> None:
    """Make the folder of --report, before the work and not after it.

    Raises:
        DataError: it cannot be made or written to.
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder} of --report ({error.strerror}): choose another") from error
    if not os.access(folder, os.W_OK):
        raise DataError(f"the folder {folder} of --report cannot be written to: choose another")


def document(title: str, parts: Iterable[str]) -> str:
    """The page, of parts that are HTML."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{''.join(parts)}</html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading over what is HTML."""
    return f"<h2>{escape(title)}</h2>{body}"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    cells = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def draw(label: str, width: float, height: float, plot: Callable[[Axes], None]) -> str:
    """An SVG of what `plot` puts on axes, of so many inches; the label is for those who cannot see it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    # text stays text: a browser has letters that matplotlib's font lacks, and about which it would warn
    with rc_context({"svg.fonttype": "none", "text.parse_math": False}), warnings.catch_warnings(action="ignore"):
        figure = Figure(figsize=(width, height), layout="constrained")
        plot(figure.subplots())
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return f'<figure role="img" aria-label="{escape(label, quote=True)}">{svg[svg.index("<svg") :]}</figure>'


def thumbnail(path: Source) -> str:
    """A photo as an image of the page; nothing of one that cannot be read any more."""
    try:
        image = decode_photo(read(path), str(path))
    except PhotoError:
        return ""
    image.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
