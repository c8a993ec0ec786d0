"""Verbs of the command line that the server brings."""
