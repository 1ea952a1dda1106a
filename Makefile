# The virtual environment; made where it does not exist.
VENV ?= .venv
# A Python of 3.11 to 3.13.
PYTHON ?= python3

BIN := $(VENV)/bin
REQUIREMENTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test unit lint types imports format benchmarks image-test clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.service ## Start the service with the shipped models on http://127.0.0.1:8000
	$(BIN)/python -m service

test: lint types imports unit ## Install what the tests need, run every check and test

unit: $(VENV)/.dev ## Run the tests alone
	$(BIN)/python -m pytest

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types, strictly
	$(BIN)/mypy

imports: $(VENV)/.dev ## Check which package may import which
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: $(VENV)/.dev ## Measure anew what benchmarks/reports/ states (an hour)
	for benchmark in batch_sizes decode_cost export_speed train_step_speed input_wait overload sizing fuzz soak; do $(BIN)/python -m benchmarks.$$benchmark || exit 1; done

image-test: $(VENV)/.dev ## Build the service's image without Docker and see it answer (as root on Debian)
	$(BIN)/python docker/image_test.py

clean: ## Remove the virtual environment and what tools leave behind
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The stamp files stand for what is installed; a change of the requirements installs again.
$(VENV)/.service: $(VENV)/.python $(REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.python $(REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.service
