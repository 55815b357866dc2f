# Needs make and Python 3.10 or newer with its venv module, nothing else: `make leaderboard` sets up the rest in $(VENV).
# An environment you already have works too:  make leaderboard VENV=/path/to/it
VENV   ?= .venv
PYTHON ?= python3
STORE  ?= store
JOBS   ?=
BIN    := $(VENV)/bin
RUN    := $(BIN)/castlewalls run

# make takes a space for the end of a file's name, and so does an installed script's first line.
ifneq ($(words x$(VENV)x $(VENV)),2)
$(error VENV must be a path without spaces, got '$(VENV)')
endif
ifeq ($(strip $(STORE)),)
$(error STORE must be a folder, got '$(STORE)')
endif

# One thread a process: the tests already run in three. Neighbours go to the same one, so that what a file shares is mostly made once.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1

BOARD   := digits-cut poison-cut sd-cut
ASKED   := digits poison sd clip-aware clip-ddim unconditional repairs faint model-detectors samplers-attacks samplers-faint goals
SCIENCE := $(notdir $(basename $(wildcard suites/science-*.yaml)))

.PHONY: help setup setup-dev leaderboard science $(SCIENCE) results pages site test lint bench clean
.DEFAULT_GOAL := help

help:
	@echo "make leaderboard   run the suites $(BOARD) into $(STORE)/ and write the HTML board (sets up $(VENV) first)"
	@echo "make science       the longer suites, suites/science-*.yaml, and their pages in docs/ (one suite: make science-rates)"
	@echo "make results       the records of all complete runs in $(STORE)/, as text under results/, to commit"
	@echo "make pages         the science pages, docs/results.md and README's answers again, from results/ (no PyTorch needed)"
	@echo "make site          the static site in site/: board, methods and docs, from results/ (no PyTorch needed)"
	@echo "make test          the test suite, with coverage"
	@echo "make lint          ruff, mypy, import-linter"
	@echo "make bench         the benchmarks"
	@echo "make setup         only the environment; setup-dev adds the test and lint tools"
	@echo "make clean         remove caches and build leftovers; $(VENV) and $(STORE) stay"
	@echo "Variables: VENV=$(VENV) PYTHON=$(PYTHON) STORE=$(STORE)"

setup: $(VENV)/.castlewalls
setup-dev: $(VENV)/.castlewalls-dev

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "castlewalls needs Python 3.10 or newer; '$(PYTHON)' is not. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' || \
	  { echo "'$(PYTHON)' lacks its venv module (on Debian: apt install python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# The stamps make a second call instant; a changed dependency list installs again.
$(VENV)/.castlewalls: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable .
	@touch $@

$(VENV)/.castlewalls-dev: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	@touch $(VENV)/.castlewalls $(VENV)/.castlewalls-science $@

$(VENV)/.castlewalls-science: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[science]'
	@touch $(VENV)/.castlewalls $@

leaderboard: setup
	$(RUN) $(BOARD) --store "$(STORE)" $(if $(JOBS),--jobs "$(JOBS)")

# Failed cells (exit code 1) are rows of the pages; anything else stops here.
science: $(VENV)/.castlewalls-science
	@$(RUN) $(SCIENCE) $(ASKED) --store "$(STORE)" --no-report $(if $(JOBS),--jobs "$(JOBS)"); code=$$?; [ $$code -le 1 ] || exit $$code; \
	$(BIN)/python -m benchmarks.coverage || code=1; \
	$(BIN)/python -m science.x0_trajectories --store "$(STORE)" || code=1; \
	$(BIN)/python -m science --store "$(STORE)" --output docs && exit $$code

$(SCIENCE): setup
	$(RUN) $@ --store "$(STORE)" $(if $(JOBS),--jobs "$(JOBS)")

results: setup
	$(BIN)/castlewalls export --store "$(STORE)" --output results

pages: $(VENV)/.castlewalls-science
	$(BIN)/python -m science --records results --output docs
	$(BIN)/python -m science.readme --records results

site: setup
	$(BIN)/castlewalls site --output site

# Three workers for two cores: many tests wait for processes and clusters of their own.
test: setup-dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n 3 --dist worksteal --timeout 900 --durations 25 --cov --cov-report term

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup-dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf build dist *.egg-info .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
