# make demo          environment with what the main job needs, then that job on built-in photos
# make test          the same environment with the development tools on top, then the whole test suite
# make test-lowest   an environment with the lowest versions that pyproject.toml admits, and the tests that are not slow
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ADAPT := $(VENV)/.adapt
DEV := $(VENV)/.dev
# 2.13.0 exactly: the version that pyproject.toml admits. From PyTorch's index for the CPU if that answers, else from where pip
# looks; with options of pip's behind it, from where these say: see "torch without CUDA" in README.md.
TORCH ?= torch==2.13.0

.PHONY: install demo test check format clean
install: $(DEV)

$(ADAPT): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python deploy/install_torch.py $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[adapt]'
	touch $@

$(DEV): $(ADAPT)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(ADAPT)
	$(BIN)/edge-qprompt demo

# in two processes, a file in one of them: most tests wait for something, or have one thread
test: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_architecture.py

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info
