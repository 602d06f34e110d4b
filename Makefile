# make demo, make test: a fresh clone needs Python >= 3.11 and make, nothing else.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?= --numprocesses 2 --dist loadfile
PYTEST_SLOW_ARGS ?=

.PHONY: help install install-dev demo test test-slow lint format bench clean

help:
	@echo "make demo       run the pipeline on PBMC3k (or simulated cells) and say where the results are"
	@echo "make test       linters, types, import walls, tests and doctests (minutes)"
	@echo "make test-slow  the tests that take minutes or gigabytes each"
	@echo "make bench      benchmarks, each against its peer"
	@echo "make lint       linters, types and import walls only"
	@echo "make install    .venv with sc_dask; make install-dev adds what the tests need"

# A stamp is younger than pyproject.toml exactly when what it names is installed.
$(VENV)/.venv-made:
	@test -n "$(PYTHON)" || { echo "found no Python >= 3.11; expected python3 on the PATH; next: install it, or make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "found no working venv module; expected $(PYTHON) -m venv; next: apt-get install python3-venv (Debian, Ubuntu)"; exit 2; }
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.venv-made
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.venv-made
	$(PIP) install --quiet --editable ".[test,dev,bench]"
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

demo: $(VENV)/.installed
	$(BIN)/sc-dask demo

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow $(PYTEST_SLOW_ARGS)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
