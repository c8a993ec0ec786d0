"""One file a verb; each holds a click command named `command` and imports what is heavy only when called."""
