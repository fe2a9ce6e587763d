# Everything runs in .venv, which each target makes if it is missing. `make PYTHON=/path/to/python test` picks another.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help report test lint bench gpu format clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

report: $(STAMP) ## Train on digits with fused ZO, MeZO and backprop; write reports/latest
	$(BIN)/zo-triton report

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest

bench: $(STAMP) ## Run the benchmarks and refresh reports/latest
	$(BIN)/python -m pytest --benchmark

gpu: $(STAMP) ## Run the kernel tests on this machine's GPU; says so if there is none
	@found=$$($(BIN)/python -c "import torch; print(torch.cuda.is_available())") || exit 1; \
	if [ "$$found" = True ]; then \
		TRITON_INTERPRET=0 $(BIN)/python -m pytest tests/kernels; \
	else \
		echo "no GPU that torch can use: nothing to run here; 'make test' runs the kernels in Triton's interpreter."; \
	fi

lint: $(STAMP) ## Check style, types and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .benchmarks build

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
