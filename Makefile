# Two commands for everybody: `make demo` and `make test`. Each sets itself up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CORES  := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# One thread a process: the tests already run one process a core.
ONE    := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=agg

.PHONY: demo test test-full check types fast format docs clean

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jostle needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
	@touch $@

demo: $(VENV)/ready
	@$(BIN)/jostle demo

test: $(VENV)/ready
	$(ONE) $(BIN)/python -m pytest -n $(CORES) --dist worksteal -m "not slow"

test-full: $(VENV)/ready
	$(ONE) $(BIN)/python -m pytest -n $(CORES) --dist worksteal

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j 2 types fast  # pyright takes one core alone

types: $(VENV)/ready
	$(BIN)/pyright

fast: $(VENV)/ready
	$(ONE) $(BIN)/python -m pytest -q -n $(CORES) --dist worksteal -m "not slow and not study"

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist
