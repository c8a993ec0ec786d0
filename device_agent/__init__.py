"""The command `edge-qprompt`: what runs on a laptop or a Jetson."""
