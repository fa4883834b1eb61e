# btclab: everything a user or developer types. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup run test test-kill test-intel lint bench lab dashboard notebooks lock clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY)  ## Make .venv and install from requirements.lock (done by the others when needed)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "btclab needs Python 3.11 or newer; found $$($(PYTHON) --version). Say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up $(VENV): some minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --requirement requirements.lock
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

run: $(READY)  ## Train, backtest and signal: three reports. ARGS='--source file:PATH' for your own candles
	@$(BIN)/btclab pipeline $(ARGS)

test: $(READY)  ## Run the whole test suite
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-kill: $(READY)  ## Kill writer and trader 200 times each (some minutes)
	@BTCLAB_KILLS=200 $(BIN)/python -m pytest -q -o timeout=1800 -k killed tests/trading/test_ledger.py tests/operations/test_paper.py $(ARGS)

test-intel: .venv-intel/.ready  ## Forecasting tests under Intel's PyTorch extension, in an environment of its own (7 GB)
	@.venv-intel/bin/python -m pytest -n $(WORKERS) --dist loadfile tests/forecasting $(ARGS)

.venv-intel/.ready: requirements.lock pyproject.toml
	@echo "Setting up .venv-intel: 7 GB and some minutes, once."
	$(PYTHON) -m venv .venv-intel
	.venv-intel/bin/python -m pip install -qq --editable '.[intel,dev]'
	@touch $@

lint: $(READY)  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)  ## Measure speed and memory against named rivals
	@$(BIN)/python -m tests.benchmarks $(ARGS)

lab: $(READY)  ## Open JupyterLab on the notebooks
	@$(BIN)/jupyter lab notebooks

dashboard: $(READY)  ## Serve the dashboard on 127.0.0.1
	@$(BIN)/btclab dashboard $(ARGS)

notebooks: $(READY)  ## Execute the report notebooks and store their light outputs
	@$(BIN)/python -m tests.notebooks.store

lock: $(READY)  ## Write requirements.lock anew from what is installed in .venv
	@{ echo "# Exact versions of everything, written by 'make lock'. Install with: make setup"; \
	   $(BIN)/python -m pip freeze --exclude-editable --exclude btclab | sed 's/+cpu$$//'; } > requirements.lock

clean:  ## Remove .venv and caches; your data, models and runs stay
	rm -rf $(VENV) .venv-intel .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
