# Two commands: `make demo` trains a small Vision Transformer on handwritten digits; `make test` runs every check and test.
# The environment is made on the first use. Another place or Python: make test VENV=/somewhere/venv PYTHON=python3.13

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

# An environment is up to date when it holds the stamp of these files in this folder.
KEY := $(shell (pwd; cat pyproject.toml constraints.txt) | cksum | cut -d ' ' -f 1)
TRAIN := $(VENV)/vitrail-train-$(KEY)
DEV := $(VENV)/vitrail-dev-$(KEY)

.DEFAULT_GOAL := help
.PHONY: help demo test check test-fast test-compile test-slow install install-dev clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

demo: $(TRAIN) ## train, evaluate and use a small model on handwritten digits (under 2 minutes)
	@$(BIN)/vitrail demo

test: check test-fast test-compile ## every check and every test but the slow ones

check: $(DEV) ## style, types and the import rules
	@BIN=$(BIN) scripts/check

# The tests must see this checkout and no other copy: -P keeps the current folder out of the search path.
test-fast: $(DEV)
	@$(BIN)/python -P -c 'import sys, pathlib, vitrail; here = pathlib.Path("src/vitrail").resolve(); \
	  found = pathlib.Path(vitrail.__file__).resolve().parent; sys.exit(found != here and f"the tests would import {found}, not {here}")'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow and not compile' --jaxtyping-packages=vitrail,beartype.beartype

test-compile: $(DEV)
	$(BIN)/python -m pytest -m 'compile and not slow'

test-slow: $(DEV) ## the tests of over ten seconds
	$(BIN)/python -m pytest -m slow

install: $(TRAIN) ## the environment alone, for `vitrail` itself
install-dev: $(DEV) ## the environment with the tools of development

$(TRAIN): constraints.txt pyproject.toml
	@scripts/environment $(PYTHON) $(VENV) train
	@rm -f $(VENV)/vitrail-*-* && touch $@

$(DEV): constraints.txt pyproject.toml
	@scripts/environment $(PYTHON) $(VENV) dev
	@rm -f $(VENV)/vitrail-*-* && touch $(TRAIN) $@

clean: ## remove what make made: the environment, the demo's run, caches
	rm -rf .venv demo build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
