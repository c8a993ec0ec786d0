# make demo   environment, install, then the main job on built-in photos
# make test   environment if need be, then the whole test suite
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# 2.13.0 exactly: the newest that the bounds in pyproject.toml admit. On Linux, PyPI's torch brings CUDA;
# the CPU build is smaller by gigabytes: see "torch without CUDA" in README.md.
TORCH ?= torch==2.13.0

.PHONY: install demo test check format clean
install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/edge-qprompt demo

# in two processes, a file in one of them: most tests wait for something, or have one thread
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_architecture.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info
