"""Graphs: ONNX files of a model's towers, written node by node where prompts go in, else traced.

May import the library's faces.
"""

from exporter.graphs.image import write_vision_graph
from exporter.graphs.text import write_text_graph
from exporter.graphs.traced import MAX_GRAPH_BYTES, write_image_graph

__all__ = [
    "MAX_GRAPH_BYTES",
    "write_image_graph",
    "write_text_graph",
    "write_vision_graph",
]
