"""Commands that make backbones; each loads what it needs when it runs."""
