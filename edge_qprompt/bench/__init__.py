"""The papers' protocols: cells that are run once and kept, and tables made of them."""
