# `make` lists the targets. All set-up happens in .venv; Python 3.11 and make are all that has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CASES := runs/phantom-cases
PIP := pip install --disable-pip-version-check
# of the tests: `make test ARGS=tests/test_losses.py`, `make test ARGS='-k resume'`
ARGS ?=
# the compiled modules are kept: each process of the tests would compile them again
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help setup fit test test-fast test-minimum cluster-test fuzz audit lint format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## install everything into .venv, in the versions of constraints.txt

# Torch's default wheel on Linux brings several GB of CUDA packages: without an NVIDIA GPU the CPU build is asked for
# first. Where its index cannot be reached, the default wheel is installed by the next line.
$(VENV)/ready: pyproject.toml constraints.txt tests/metrics/organisers.txt
	$(PYTHON) -m venv $(VENV)
	@nvidia-smi -L >/dev/null 2>&1 || { echo 'no NVIDIA GPU: asking for the CPU build of torch'; \
	  $(BIN)/$(PIP) --no-deps --retries 0 --timeout 10 --constraint constraints.txt \
	    --index-url https://download.pytorch.org/whl/cpu torch || true; }
	$(BIN)/$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(BIN)/$(PIP) --no-deps --requirement tests/metrics/organisers.txt
	@touch $@
	@echo "installed; activate it with: source $(VENV)/bin/activate"

# threads that wait for each other give their core away instead of spinning: a matter where cores are shared
fit: export OMP_WAIT_POLICY := PASSIVE
fit: $(VENV)/ready ## train a small UNETR on synthetic cases, score it on held-out ones, segment one
	$(BIN)/raum phantom $(CASES) --cases 40 --shape 96 96 80
	$(BIN)/lightning fit -c experiments/phantom.yaml
	$(BIN)/lightning predict -c experiments/phantom.yaml --trainer.limit_predict_batches 1
	$(BIN)/lightning test -c experiments/phantom.yaml

test: $(VENV)/ready ## run all tests, or those that ARGS names
	$(BIN)/pytest --numprocesses 2 --dist worksteal $(ARGS)

test-fast: $(VENV)/ready ## run the tests that take no seconds
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m 'not (slow or distributed or compile or gpu)' $(ARGS)

test-minimum: ## run the tests on the lowest versions that pyproject.toml promises, in a .venv-minimum of its own
	$(PYTHON) -m venv .venv-minimum
	.venv-minimum/bin/$(PIP) --quiet --constraint constraints-minimum.txt --editable '.[dev]'
	.venv-minimum/bin/$(PIP) --quiet --no-deps --requirement tests/metrics/organisers.txt
	.venv-minimum/bin/pytest --numprocesses 2 --dist worksteal $(ARGS)

cluster-test: $(VENV)/ready ## train, preempt and resume on a real SLURM, set up on this machine (as root; minutes)
	tests/cluster/run.sh

fuzz: $(VENV)/ready ## try 10,000 damaged files and 3,000 damaged headers of a case (an hour)
	$(BIN)/python -m tests.fuzz.fuzz_headers
	$(BIN)/python -m tests.fuzz.fuzz_geometry --count 3000

audit: $(VENV)/ready ## look for known holes in the pinned versions and for risky calls (docs/reliability.md)
	$(BIN)/$(PIP) --quiet bandit pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip
	$(BIN)/bandit --quiet --recursive raum_lightning -ll

lint: $(VENV)/ready ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready ## mend what style can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/ready ## time ours against what one would use instead, side by side
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove .venv, the synthetic cases and their runs, and caches
	rm -rf $(VENV) .venv-minimum runs/phantom* .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
