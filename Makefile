# `make` lists the targets. All set-up happens in .venv; Python 3.11 and make are all that has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CASES := runs/phantom-cases
.DEFAULT_GOAL := help
.PHONY: help setup fit test cluster-test lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## install everything into .venv

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# threads that wait for each other give their core away instead of spinning: a matter where cores are shared
fit: export OMP_WAIT_POLICY := PASSIVE
fit: $(VENV)/ready ## train a small UNETR on synthetic cases, score it on held-out ones, segment one
	$(BIN)/raum phantom $(CASES) --cases 40 --shape 96 96 80
	$(BIN)/lightning fit -c experiments/phantom.yaml
	$(BIN)/lightning predict -c experiments/phantom.yaml --trainer.limit_predict_batches 1 --trainer.logger false
	$(BIN)/lightning test -c experiments/phantom.yaml --trainer.logger false

test: $(VENV)/ready ## run the tests
	$(BIN)/pytest --numprocesses 2 --dist worksteal

cluster-test: $(VENV)/ready ## train, preempt and resume on a real SLURM, set up on this machine (as root; minutes)
	tests/cluster/run.sh

lint: $(VENV)/ready ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready ## time ours against what one would use instead, side by side
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove .venv, the synthetic cases and their runs, and caches
	rm -rf $(VENV) runs/phantom* .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
