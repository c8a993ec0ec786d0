"""Keys, statements and updates, on a server that lies as well as on an honest one."""

from fleet_fixtures import device, empty, first, fleet, key, publisher, second

__all__ = ["fleet", "key", "empty", "first", "second", "device", "publisher"]
