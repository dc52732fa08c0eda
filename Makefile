# make demo   set up and run the main job on the bundled models and pictures
# make test   set up and run the tests
# make lint   ruff and mypy
# make format ruff, in place
# make bench  measurements of speed and memory (not tests)
# make ablation  every part of the prototype method switched off in turn, three seeds
# make methods  every method on bundled and rendered pictures, one table; half an hour
# make parity  numbers against the published implementations', at their networks' true sizes; minutes and 7 GB
# make quality  figures of the bundled models, one seed; fails when one is below its floor

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test lint format bench ablation methods parity quality clean

demo: $(STAMP)
	$(BIN)/ovseg demo

test: $(STAMP)
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

ablation: $(STAMP)
	$(BIN)/python -m examples.ablation

methods: $(STAMP)
	$(BIN)/python -m examples.compare.study

parity: $(STAMP)
	$(BIN)/python -m pytest -q tests/parity -m parity

quality: $(STAMP)
	$(BIN)/python -m examples.mini_pack.evaluate ovseg_cli/profiles/mini \
		--what judge attention clip gem prototypes --seeds 1 --floors examples/mini_pack/floors.json

# Installed again only when what is installed changes.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
