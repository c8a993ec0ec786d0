"""Source: a model of open_clip's, checked, with all that becomes a backbone of it.

Imports torch and open_clip. May import `request` and the library's faces.
"""

from exporter.source.source import Source, import_open_clip, load
from exporter.source.tokenizer_file import clip_tokenizer, write_tokenizer
from exporter.source.vision import vision_config, vision_tensors

__all__ = [
    "Source",
    "clip_tokenizer",
    "import_open_clip",
    "load",
    "vision_config",
    "vision_tensors",
    "write_tokenizer",
]
