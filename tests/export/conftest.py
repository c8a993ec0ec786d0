"""Making backbones: graphs, gates, precisions, recipes."""

from encoder_fixtures import exported

__all__ = ["exported"]
