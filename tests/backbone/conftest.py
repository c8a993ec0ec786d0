"""Backbones, and what packs change inside of them."""

from encoder_fixtures import exported

__all__ = ["exported"]
