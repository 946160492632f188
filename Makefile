# make demo   train a small Manzano on this machine, from data to pictures, and open runs/demo/report.html
# make test   run the test suite
# make test-harness  the tests of the plug-in for lmms-eval, which they install
# make lint   ruff and pyright
# make venv   only install (demo, test and lint do it by themselves, once)
# make clean  remove .venv and the caches; runs/ stays
#
# PYTHON chooses the interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
HARNESS := $(VENV)/.harness

.PHONY: help demo test test-harness lint venv clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(STAMP)
	$(BIN)/manzano demo

test: $(STAMP)
	$(BIN)/python -m pytest -q

test-harness: $(HARNESS)
	$(BIN)/python -m pytest -q tests/harness

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

venv: $(STAMP)

# pip compiles what it installs to bytecode, also where PYTHONDONTWRITEBYTECODE is set: there, every
# import of torch, transformers and diffusers would otherwise take twice as long.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Manzano needs Python 3.10 or newer, and $(PYTHON) is `$(PYTHON) --version 2>&1`: choose another one with PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --compile -c constraints.txt -e ".[demo,serve,judges,dev]"
	@touch $@

$(HARNESS): $(STAMP)
	$(BIN)/python -m pip install --compile -c constraints.txt -e ".[eval]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find manzano tests -name __pycache__ -type d -prune -exec rm -rf {} +
