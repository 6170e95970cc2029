# `make demo` and `make test` make .venv themselves; they need python3 (3.11 or newer) and make, no more.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# One thread per process: results depend on the number of threads, and two workers share the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-all check format install clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      train the agent of configs/quick.yaml and compare it (five to ten minutes after the installation)"
	@echo "make test      style, types and tests (ten to fifteen minutes)"
	@echo "make test-all  the same with the slow tests"
	@echo "make format    put every file into the house style"
	@echo "make clean     remove .venv and caches"

demo: $(STAMP)
	env -u OMP_NUM_THREADS $(BIN)/python examples/demo.py

test: check
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal

test-all: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

# The stamp is made last, so an interrupted installation is taken up again. torch goes first, by itself: a
# machine that has a wheel of its own for it (CPU or CUDA) keeps that one.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "durotaxis needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@echo "installing into $(VENV): some minutes, about 1.5 GB; later calls start at once"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.11,<2.14"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
