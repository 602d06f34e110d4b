# make demo, make test: a fresh clone needs Python >= 3.11 and make, nothing else.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
else # make test PYTHON=python3.12: an environment of its own
VENV ?= .venv-$(VERSION)
endif
VERSION := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The versions to install: those of the lock of this Python, where there is one; LOCK= installs the newest.
LOCK ?= $(wildcard sc_dask/locks/$(VERSION).txt)
CONSTRAINTS := $(if $(LOCK),--constraint $(LOCK))
PYTEST_ARGS ?= --numprocesses 2 --dist loadfile
PYTEST_SLOW_ARGS ?=

.PHONY: help install install-dev demo test test-slow conformance test-matrix test-lowest test-installed test-next test-pre lint format lock bench clean

help:
	@echo "make demo         run the pipeline on PBMC3k (or simulated cells) and say where the results are"
	@echo "make test         all tests and doctests (a quarter of an hour); PYTHON=python3.12 with that interpreter"
	@echo "make lint         linters, types and import walls"
	@echo "make test-slow    the tests that take minutes or gigabytes each"
	@echo "make conformance SCANPY_SRC=checkout  scanpy's own tests with our functions in scanpy's place"
	@echo "make test-matrix  make test with every interpreter found, and stores of each read by all"
	@echo "make test-lowest  make test with the lowest versions that pyproject.toml allows, on Python 3.11"
	@echo "make test-next    make test with pre-releases; reports, never fails"
	@echo "make lock         write the versions that are installed anew (sc_dask/locks)"
	@echo "make bench        benchmarks, each against its peer"
	@echo "make install      .venv with sc_dask; make install-dev adds what the tests need"

# A stamp is younger than pyproject.toml and the lock exactly when what they name is installed.
$(VENV)/.venv-made:
	@test -n "$(PYTHON)" || { echo "found no Python >= 3.11; expected python3 on the PATH; next: install it, or make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 2; }
	@was=$$(test -e $(VENV) && echo there); $(PYTHON) -m venv $(VENV) || { test -n "$$was" || rm -rf $(VENV); \
		echo "found no working venv module; expected $(PYTHON) -m venv; next: apt-get install python3-venv (Debian, Ubuntu)"; exit 2; }
	@touch $@

# What an environment was made with is what its lock is for, whatever python3 is today.
$(VENV)/.lock: $(VENV)/.venv-made
	@made=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if [ "$$made" != "$(VERSION)" ]; then \
		echo "found $(VENV) of Python $$made and python3 of $(VERSION); next: make clean, or make PYTHON=$(PYTHON) $(MAKECMDGOALS)"; exit 2; fi
	@test -n "$(LOCK)$(filter command,$(origin LOCK))" || echo "found no lock of Python $(VERSION) (there are: $(notdir $(basename $(wildcard sc_dask/locks/3.*.txt)))): installing the newest versions, which nobody may have tested"
	@touch $@

$(VENV)/.installed: pyproject.toml $(LOCK) $(VENV)/.lock
	$(PIP) install --quiet $(CONSTRAINTS) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(LOCK) $(VENV)/.lock
	$(PIP) install --quiet $(CONSTRAINTS) --editable ".[test,dev,bench]"
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

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow $(PYTEST_SLOW_ARGS)

# scanpy's repository is not part of this one: git clone --branch <installed version> https://github.com/scverse/scanpy
conformance: $(VENV)/.installed-dev
	@test -n "$(SCANPY_SRC)" || { echo "found no SCANPY_SRC; expected a checkout of scanpy's repository at the installed version; next: git clone --branch $$($(BIN)/python -c 'from importlib.metadata import version; print(version("scanpy"))') https://github.com/scverse/scanpy, and make conformance SCANPY_SRC=scanpy"; exit 2; }
	$(BIN)/python -m tests.conformance $(SCANPY_SRC) $(CONFORMANCE_ARGS)

test-matrix:
	@$(PYTHON) tools/matrix.py --make "$(MAKE)"

test-lowest:
	@lowest=$$($(PYTHON) tools/interpreters.py | sed -n 's/^3\.11 //p'); \
	test -n "$$lowest" || { echo "found no Python 3.11, for which sc_dask/locks/lowest.txt is"; exit 2; }; \
	$(MAKE) PYTHON="$$lowest" VENV=.venv-lowest LOCK=sc_dask/locks/lowest.txt test-installed

# the tests alone: linters and benchmarks have no lowest versions
test-installed: $(VENV)/.lock
	$(PIP) install --quiet $(CONSTRAINTS) --editable ".[test]"
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-next:
	@newest=$$($(PYTHON) tools/interpreters.py --ends | tail -n 1 | cut -d" " -f2); \
	$(MAKE) PYTHON="$$newest" VENV=.venv-next LOCK= test-pre || echo "test-next: something fails with pre-releases (reported, no gate)"

test-pre: $(VENV)/.lock
	$(PIP) install --quiet --upgrade --pre --editable ".[test]"
	$(BIN)/python -c "import sc_dask; sc_dask.print_versions()"
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lock: $(VENV)/.installed-dev
	$(BIN)/python tools/lock.py

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

# environments of ours alone: what make has not made has no stamp
clean:
	for made in .venv/.venv-made .venv-*/.venv-made; do [ ! -e "$$made" ] || rm -rf "$$(dirname "$$made")"; done
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
