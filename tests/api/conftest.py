"""The HTTP server: requests to the app itself, and to servers in processes of their own."""

from api_fixtures import api, packs, private, width
from store_fixtures import database, engine, store
from target_fixtures import attacked, target

__all__ = ["width", "packs", "api", "private", "engine", "store", "database", "attacked", "target"]
