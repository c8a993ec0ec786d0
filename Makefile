# make demo          environment with what the main job needs, then that job on built-in photos
# make test          the same environment with the development tools on top, then the whole test suite
# make quick         those tests that need no server of their own, browser or database, in two minutes
# make test-lowest   an environment with the lowest versions that pyproject.toml admits, and the tests that are not slow
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ADAPT := $(VENV)/.adapt
DEV := $(VENV)/.dev
# 2.13.0 exactly: the version that pyproject.toml admits. From PyTorch's index for the CPU if that answers, else from where pip
# looks; with options of pip's behind it, from where these say: see "torch without CUDA" in README.md.
TORCH ?= torch==2.13.0

TWO := -n 2 --dist loadfile --no-loadscope-reorder

LOWEST_VENV := .venv-lowest
LOWEST_BIN := $(LOWEST_VENV)/bin
LOWEST := $(LOWEST_VENV)/.installed
# what comes with torch's other builds, and torch itself, is left to deploy/install_torch.py
LOWEST_WITHOUT := ^(torch|triton|nvidia|cuda)[-=]
# each dependency is met by one of them at least
LOWEST_TESTS := commands exporter_int8 catalogue encoder_packs heads session end_to_end fleet_answers fleet server_hostile \
	server server_refusals quantized_graph pack photo photo_encoder classifier tokenizer features dataset statement metrics publisher

.PHONY: install demo test test-lowest quick docs check format clean
install: $(DEV)

$(ADAPT): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python deploy/install_torch.py $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[adapt]'
	touch $@

$(DEV): $(ADAPT)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(LOWEST): pyproject.toml $(DEV)
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_BIN)/python deploy/install_torch.py $(TORCH)
	$(BIN)/uv pip compile --quiet --python $(LOWEST_BIN)/python --resolution lowest-direct --extra all --extra dev --no-header \
		--no-annotate pyproject.toml | grep -Ev '$(LOWEST_WITHOUT)' > $(LOWEST_VENV)/requirements.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST_BIN)/python --no-deps --requirement $(LOWEST_VENV)/requirements.txt --editable .
	touch $@

demo: $(ADAPT)
	$(BIN)/edge-qprompt demo

# in two processes, a file in one of them: most tests wait for something, or have one thread. Longest files first: tests/conftest.py
test: $(DEV)
	$(BIN)/python -m pytest $(TWO)

quick: $(DEV)
	$(BIN)/python -m pytest $(TWO) -m 'not slow and not browser and not postgres'

test-lowest: $(LOWEST)
	$(LOWEST_BIN)/python -m pytest $(TWO) $(foreach test,$(LOWEST_TESTS),$(wildcard tests/*/test_$(test).py))

# the documentation as a site, in site/; broken links are errors
docs: $(DEV)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m mkdocs build --quiet --strict

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/project/test_architecture.py

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(LOWEST_VENV) build dist site *.egg-info
