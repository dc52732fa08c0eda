# make demo   set up and run the main job on the bundled models and pictures
# make test   set up and run the tests, but for the slow ones
# make test-all     all tests
# make test-oldest  the tests with the oldest versions that pyproject.toml allows (constraints-oldest.txt)
# make lint   ruff and mypy
# make format ruff, in place
# make bench  measurements of speed and memory (not tests)
# make ablation  every part of the prototype method switched off in turn, three seeds
# make heads  trained heads: rows of DEDOS's table, three seeds, one table; half a day
# make methods  every method on the bundled pictures, one table; half an hour
# make parity  numbers against the published implementations', at their networks' true sizes; many minutes, 7 GB or 18
# make interop  exports read by the libraries of the tools that they are for, in .venv-interop, on top of .venv; 730 MB
# make quality  figures of the bundled models, one seed; fails when one is below its floor
#
# make TARGET CPU=1  the same in .venv-cpu, for computers without an NVIDIA GPU: with faiss-cpu, which brings no CUDA.
#   torch is what pip's index has. For Linux on x86-64 the default one has builds with CUDA only; where
#   PIP_EXTRA_INDEX_URL names one with CPU builds of torch and torchvision (2.12.1+cpu, 0.27.1+cpu), pip prefers these.

PYTHON      ?= python3
CONSTRAINTS ?= constraints.txt
VENV        := .venv$(if $(CPU),-cpu)
BIN         := $(VENV)/bin
STAMP       := $(VENV)/.installed

.PHONY: demo test test-all test-oldest lint format bench ablation heads methods parity interop quality clean

demo: $(STAMP)
	$(BIN)/ovseg demo

# Tests run on one core each, in as many processes as JOBS says, of 1.7 GB each. They start hundreds more, each of which
# would compile the package anew where Python may not keep what it has compiled.
JOBS   ?= 2
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

test-oldest:
	$(MAKE) test CPU=1 VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

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

heads: $(STAMP)
	$(BIN)/python -m examples.heads

methods: $(STAMP)
	$(BIN)/ovseg benchmark --images examples/pictograms/images --gt examples/pictograms/labels \
		--class-file examples/pictograms/classes.txt --profile mini --store build/methods/store -o build/methods/table

parity: $(STAMP)
	$(BIN)/python -m pytest -q tests/parity -m parity

# What reads exports wants more than 50 packages, some of them of other versions than ours: they lie on top of these.
INTEROP := .venv-interop
PURELIB := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
$(INTEROP)/.installed: tests/interop/requirements.txt $(STAMP)
	test -x $(INTEROP)/bin/python || $(BIN)/python -m venv $(INTEROP)
	$(BIN)/python $(PURELIB) > "$$($(INTEROP)/bin/python $(PURELIB))/base.pth"
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	touch $@

interop: $(INTEROP)/.installed
	$(INTEROP)/bin/python -m pytest -q tests/interop

quality: $(STAMP)
	$(BIN)/python -m examples.mini_pack.evaluate ovseg_cli/profiles/mini \
		--what judge attention clip gem prototypes --seeds 1 --floors examples/mini_pack/floors.json

# Installed again only when what is installed changes. pip cannot put one package in the place of another that is asked
# for, so with CPU=1 it is given what pyproject.toml asks for with the other faiss, and then ovseg alone.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
$(STAMP): pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifdef CPU
	$(BIN)/python -c "$$CPU_REQUIREMENTS" > $(VENV)/requirements.txt
	$(INSTALL) --requirement $(VENV)/requirements.txt
	$(INSTALL) --no-deps --editable .
	$(BIN)/python -c "$$TELL_CUDA"
else
	$(INSTALL) --editable ".[dev]"
endif
	touch $@

define CPU_REQUIREMENTS
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
    if not line.startswith("faiss-gpu"):
        print(line.partition(";")[0])
endef
export CPU_REQUIREMENTS

define TELL_CUDA
import torch
if torch.version.cuda:
    print("note: pip's index has given a torch with CUDA; see CPU=1 in the Makefile for one without")
endef
export TELL_CUDA

clean:
	rm -rf .venv .venv-cpu .venv-oldest $(INTEROP) build dist .pytest_cache .mypy_cache .ruff_cache
