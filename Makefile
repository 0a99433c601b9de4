# Two commands: `make demo` runs scansynth, `make test` checks it. Both make .venv first, where there is none.

PYTHON ?= python3
VENV := .venv
EXTRAS := dev,prepare
STAMP := $(VENV)/.installed

# What changes mathematics: fast files, and one short training.
QUICK := $(patsubst %,tests/test_%.py,schedule gaussian parameterisation samplers variational windows stages losses \
	networks levels slice_unet window_attention wavelet kspace signal acquisitions image_metrics structural_similarity \
	feature_similarity engine) \
	tests/test_train.py::test_a_kill_before_the_first_checkpoint_starts_anew

.PHONY: help install demo docs lint types test test-quick test-slow test-all clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP)  ## make phantom scans, train on them, translate and measure; results in demo/
	$(VENV)/bin/scansynth demo -o demo

# What Material says of its own end, in 2027, is known and no fault of the pages.
docs: $(VENV)/.docs  ## the pages and the library's reference, in build/docs; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# Threads of the processes that tests start must not spin while they wait: on a busy machine steps take 60 times as long.
test test-quick test-slow test-all: export OMP_WAIT_POLICY = passive

test: lint types  ## lint, format, types, tests: what must pass
	$(VENV)/bin/pytest

test-quick: lint  ## lint, format, and the tests of what changes mathematics: in a minute
	$(VENV)/bin/pytest $(QUICK)

test-slow: $(STAMP)  ## the tests that are marked slow, which `make test` leaves out
	$(VENV)/bin/pytest -m slow

test-all: lint types  ## what `make test` does, slow tests included
	$(VENV)/bin/pytest -m 'slow or not slow'

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# pyright's wrapper would ask PyPI for a newer version; the pinned one is meant.
types: $(STAMP)
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright

install: $(STAMP)  ## only make .venv and install into it

clean:  ## remove .venv, demo/ and caches; your cohorts and runs stay
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made last, so that an interrupted installation is done again, and a finished one is not.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not found: install Python 3.11 or later, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), scansynth needs Python 3.11 or later: name another one with make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.docs: $(STAMP)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
