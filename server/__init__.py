"""The FastAPI server: a catalogue of tasks and packs, and classification. Never imports torch."""
