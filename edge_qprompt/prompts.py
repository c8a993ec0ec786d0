"""Class names and hand-written templates as strings: what a folder's name becomes, and what a template must hold."""

from __future__ import annotations

from edge_qprompt.errors import PromptError

DEFAULT_TEMPLATE = "a photo of a {}."


def readable(name: str) -> str:
    """A class name as a prompt wants it: `_` and `-` of folder names become spaces."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def check_template(template: str) -> str:
    """The template itself.

    Raises:
        PromptError: it does not hold {} exactly once, or is not UTF-8.
    """
    try:
        template.encode()
    except UnicodeEncodeError as error:  # what Python makes of such an argument: lone surrogates
        raise PromptError(f"the template is {template!r}, which is not UTF-8: write it in other letters") from error
    if template.count("{}") != 1:
        raise PromptError(f"the template is {template!r}, it must hold {{}} once, where the class name goes")
    return template
