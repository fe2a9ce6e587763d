# Everything runs in .venv, which each target makes if it is missing. `make PYTHON=/path/to/python test` picks another.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# The oldest versions that the metadata names, in an environment of their own. Its Python is the one on the path or of
# pyenv's, whose shim is on the path for versions that are not chosen, too.
PYTHON_OLDEST ?= $(firstword $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null) \
                   $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.12.*/bin/python) python3.12)
OLDEST        := .venv-oldest

# Pythons that the wheel is tried on, each in an empty environment of its own.
WHEEL_PYTHONS ?= 3.10 3.12 3.13

.DEFAULT_GOAL := help
.PHONY: help report report-full test test-oldest test-wheel lint types docs bench gpu format clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

report: $(STAMP) ## Race fused ZO against MeZO and backprop on digits (three minutes); write reports/latest
	$(BIN)/python -m benchmarks report

report-full: $(STAMP) ## Run the whole suite (twenty minutes); write reports/full
	$(BIN)/python -m benchmarks report --full

# Each worker has half of the files until one runs short: what the tests of a file share is made once.
test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest -p no:benchmark -n 2 --dist worksteal

# The interpreter runs the kernels, the compiler reads them, and the stages of `make gpu` go through it all.
test-oldest: $(OLDEST)/.installed ## Run what concerns the kernels on the oldest torch, Triton and NumPy that are supported
	$(OLDEST)/bin/python -m pytest -p no:benchmark tests/kernels tests/compilation
	PYTHONPATH=. $(OLDEST)/bin/python -m benchmarks gpu --tiny --out $(OLDEST)/gpu

test-wheel: $(STAMP) ## Use the wheel as its users do, on each of WHEEL_PYTHONS with all that pip installs for it
	ZO_TRITON_PYTHONS="$(WHEEL_PYTHONS)" $(BIN)/python -m pytest -p no:benchmark tests/packaging

bench: $(STAMP) ## Run the benchmarks and refresh reports/full
	$(BIN)/python -m pytest --benchmark

# Nothing may be installable where the GPU is: without an environment, the Python that is there will do.
gpu: ## Check and measure everything on this machine's GPU (eight minutes); says so if there is none
	@python=$(BIN)/python; [ -x "$$python" ] || python=$(PYTHON); PYTHONPATH=. exec "$$python" -m benchmarks gpu

lint: $(STAMP) ## Check style, types, the import layers and the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory -j2 types docs

types: $(STAMP)
	$(BIN)/mypy

# The first variable keeps a notice about the tool's successor out of the output; pages tell the suite's commands.
docs: $(STAMP) ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --strict --quiet

format: $(STAMP) ## Rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and caches
	rm -rf $(VENV) $(OLDEST) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .benchmarks build site

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON_OLDEST) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt torch
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[suite,triton]' hypothesis expecttest
	@touch $@
