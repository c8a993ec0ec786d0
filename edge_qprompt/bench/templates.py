"""The hand-written prompts that CLIP's authors wrote for single data sets, as CoOp (arXiv 2109.01134) uses them."""

from __future__ import annotations

from pathlib import Path

TEMPLATES = {  # by how the name of the folder begins, so that a part of a data set has its template, as dtd10 that of DTD
    "eurosat": "a centered satellite photo of {}.",
    "dtd": "{} texture.",
    "oxford_pets": "a photo of a {}, a type of pet.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "food": "a photo of {}, a type of food.",
}


def template_of(folder: str) -> str | None:
    """The template of the data set in a folder, by the folder's name; None if it has none of its own."""
    name = Path(folder).name.lower()
    return next((template for start, template in TEMPLATES.items() if name.startswith(start)), None)
