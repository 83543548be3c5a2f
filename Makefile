# `make demo`, `make test` and `make docs` set up .venv once and then use it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DOCS   := $(VENV)/.docs-ready

.PHONY: demo test docs wheel setup lint types unit clean

demo: $(READY)
	$(BIN)/diffragan demo --out demo-out

# Types are checked while the first tests run.
test: lint
	$(MAKE) --no-print-directory -j 2 types unit

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks docs release
	$(BIN)/ruff format --check src tests benchmarks docs release

types: $(READY)
	$(BIN)/mypy

# Three at a time on two cores, as some tests wait, of one thread each (two would wait for each other
# by turning in circles, at twice the time); files whose tests share what takes long to make go to one
# of them, in the order of tests/conftest.py, the longest first. Bytecode is kept, also where the
# shell says otherwise: every process that a test starts would compile the package anew.
unit: $(READY)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest \
		-n 3 --dist loadscope --no-loadscope-reorder

# The site goes to site/index.html; warnings are errors, and nothing comes from the network.
docs: $(DOCS)
	$(BIN)/sphinx-build -W --keep-going -q -d $(VENV)/.doctrees -b html docs site

# The demo from the wheel, in a fresh environment and away from this checkout.
wheel: $(READY)
	release/try_wheel.sh $(abspath $(BIN)/python)

setup: $(READY)

# torch goes first and pinned: an open requirement may pull gigabytes of GPU packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "diffragan needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $(DOCS)

clean:
	rm -rf $(VENV) demo-out site docs/generated
