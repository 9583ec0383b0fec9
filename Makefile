# `make run` sets up an environment and runs the main job; `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGES := core models datamodules lightning_modules callbacks evaluation data_prep configuration planner pipeline reporting serving experiments
EXPERIMENTS := $(filter-out __init__ embedded_backbones,$(basename $(notdir $(wildcard experiments/grids/*.py))))
export TOKENIZERS_PARALLELISM := false

.PHONY: help env run smoke report ui test test-fast gpu check dry-run lock clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

env: $(VENV)/.ready  ## set up the environment

$(VENV)/.ready: requirements.lock tools/setup_environment.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python tools/setup_environment.py
	@touch $@

run: env  ## the main job: all cells of mix_ablation, table and report
	$(BIN)/python -m experiments.run --exp mix_ablation

smoke: env  ## everything once, in a minute
	$(BIN)/python -m experiments.run --exp smoke

ui: env  ## MLflow on the results
	$(BIN)/python -m experiments.ui

test: env  ## all tests
	$(BIN)/python tools/run_tests.py

test-fast: env  ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

gpu:  ## on a machine with a GPU: its tests, the step benchmark, the small study
	PYTHON=$(PYTHON) bash benchmarks/gpu_step/session.sh

check: env  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dry-run: env  ## plan of every experiment
	@for name in $(EXPERIMENTS); do \
		$(BIN)/python -m experiments.run --exp $$name --dry-run || exit 1; done
	$(BIN)/python -m experiments.run --profile small --exp mix_ablation --dry-run
	$(BIN)/python -m experiments.run --profile paper --exp full_grid --dry-run

lock: env  ## write the exact versions of the environment
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:  ## remove the environment and caches; results in mlruns stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
