# `make run` sets up the environment and runs the main experiment; `make test` runs all tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXPERIMENTS := $(filter-out __init__ distilled_tower embedded_backbones language_pair vlm_mix_ablation,$(basename $(notdir $(wildcard experiments/grids/*.py))))
export TOKENIZERS_PARALLELISM := false
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: help env run smoke ui test test-fast gpu gpu-check check dry-run lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

env: $(VENV)/.ready  ## create the environment in .venv

$(VENV)/.ready: requirements.lock tools/setup_environment.py $(wildcard tools/torchvision_cpu/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is required; select one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python tools/setup_environment.py
	@touch $@

run: env  ## train and evaluate all cells of mix_ablation, write the report
	$(BIN)/python -m experiments.run --exp mix_ablation

smoke: env  ## run one tiny cell through every stage, in about a minute
	$(BIN)/python -m experiments.run --exp smoke

ui: env  ## open the results in MLflow
	$(BIN)/python -m experiments.ui

test: env  ## run all tests
	$(BIN)/python tools/run_tests.py

test-fast: env  ## run the tests that take seconds
	$(BIN)/python tools/run_tests.py -m "not slow" --durations-min=2

gpu:  ## on a machine with a GPU: run everything that needs one, and write a report
	$(PYTHON) -m benchmarks.gpu_session

gpu-check: env  ## the same in miniature, without a GPU
	$(BIN)/python -m benchmarks.gpu_session --cpu-check

check: env  ## check lint, format, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dry-run: env  ## print the plan of every experiment
	@for name in $(EXPERIMENTS); do \
		$(BIN)/python -m experiments.run --exp $$name --dry-run || exit 1; done
	$(BIN)/python -m experiments.run --profile small --exp mix_ablation --dry-run
	$(BIN)/python -m experiments.run --profile paper --exp full_grid --dry-run
	$(BIN)/python -m experiments.run --profile modern --exp vlm_mix_ablation --dry-run

lock: env  ## write the exact versions of the environment to requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:  ## remove the environment and caches; results in mlruns are kept
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
